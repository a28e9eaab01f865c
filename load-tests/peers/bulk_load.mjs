#!/usr/bin/env node
// NATS' client for Node.js and the bulk load of tedious.

import { parseArgs } from 'node:util';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';

import { COLUMN_NAMES, Malformed, row } from './telemetry.mjs';

// the packages are where NODE_PATH says, which `import` does not read
const require = createRequire(import.meta.url);
const { connect } = require('@nats-io/transport-node');
const { jetstream } = require('@nats-io/jetstream');
const { Connection, TYPES } = require('tedious');

const BATCH_ROWS = '50000';
// A batch is at least this old before it is written with fewer rows. The client takes the server for gone after as long without a
// word: with the shortest that it allows, a second, it gave up on a machine that other work kept busy.
const PULL_MILLISECONDS = 3000;
// the largest that SQL Server takes on an encrypted connection
const PACKET_BYTES = 16_383;
const ENCRYPT = { required: [true, false], trust: [true, true], off: [false, true] };
const COLUMNS = [
  [TYPES.UniqueIdentifier, { nullable: false }],
  [TYPES.NVarChar, { length: 64, nullable: false }],
  [TYPES.VarChar, { length: 32, nullable: true }],
  [TYPES.BigInt, { nullable: false }],
  [TYPES.Float, { nullable: true }],
  [TYPES.Decimal, { precision: 5, scale: 2, nullable: true }],
  [TYPES.Bit, { nullable: false }],
  [TYPES.DateTime2, { scale: 3, nullable: false }],
  [TYPES.NVarChar, { length: 200, nullable: true }],
  [TYPES.BigInt, { nullable: false }]
];

/** Says in one sentence what is wrong. */
class Failure extends Error {}

function readArguments() {
  const required = [
    'nats-url', 'stream', 'consumer', 'sql-host', 'sql-user', 'sql-password-file', 'sql-database', 'table', 'events', 'stop-after'
  ];
  const optional = { 'sql-port': '1433', 'sql-encrypt': 'required', 'batch-rows': BATCH_ROWS };
  const options = Object.fromEntries([
    ...required.map((name) => [name, { type: 'string' }]),
    ...Object.entries(optional).map(([name, value]) => [name, { type: 'string', default: value }])
  ]);
  const { values } = parseArgs({ options });
  const missing = required.filter((name) => values[name] === undefined);
  if (missing.length > 0) throw new Failure(`missing: ${missing.map((name) => `--${name}`).join(', ')}`);
  if (!(values['sql-encrypt'] in ENCRYPT)) throw new Failure(`--sql-encrypt is one of ${Object.keys(ENCRYPT).join(', ')}`);
  for (const name of ['events', 'stop-after', 'batch-rows', 'sql-port']) {
    values[name] = Number(values[name]);
    if (!(values[name] > 0)) throw new Failure(`--${name} is a number above 0`);
  }
  return values;
}

/** A call of tedious, whose last argument is told how it ended. */
const ended = (call) => new Promise((resolve, reject) => call((error, result) => (error ? reject(error) : resolve(result))));

function openSql(values) {
  const [encrypt, trustServerCertificate] = ENCRYPT[values['sql-encrypt']];
  const connection = new Connection({
    server: values['sql-host'],
    authentication: {
      type: 'default',
      options: { userName: values['sql-user'], password: readFileSync(values['sql-password-file'], 'utf8').split('\n')[0] }
    },
    options: {
      port: values['sql-port'],
      database: values['sql-database'],
      encrypt,
      trustServerCertificate,
      packetSize: PACKET_BYTES,
      requestTimeout: 0,
      useUTC: true
    }
  });
  return ended((done) => connection.connect(done)).then(() => connection);
}

/** At most so many events, and those that come within a second or until `stopAt`. */
async function pull(consumer, count, stopAt) {
  const messages = await consumer.fetch({ max_messages: count, expires: PULL_MILLISECONDS });
  const timer = setTimeout(() => messages.stop(), Math.max(stopAt - performance.now(), 0));
  const batch = [];
  try {
    for await (const message of messages) batch.push(message);
  } finally {
    clearTimeout(timer);
  }
  return batch;
}

/** Decodes the events and writes the good ones in one transaction; their number, after its commit. */
async function write(connection, table, batch) {
  let good = 0;
  function* rows() {
    for (const message of batch) {
      try {
        yield row(message.data, message.seq);
        good += 1;
      } catch (error) {
        if (!(error instanceof Malformed)) throw error;
      }
    }
  }
  await ended((done) => connection.beginTransaction(done));
  const counted = await ended((done) => {
    const load = connection.newBulkLoad(table, { checkConstraints: true, keepNulls: true, lockTable: true }, done);
    COLUMNS.forEach(([type, options], index) => load.addColumn(COLUMN_NAMES[index], type, options));
    connection.execBulkLoad(load, rows());
  });
  if (counted !== good) throw new Failure(`${good} rows were sent, and ${counted} were counted`);
  await ended((done) => connection.commitTransaction(done));
  return good;
}

const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

/** A batch is pulled while the one before is written. */
async function run(values) {
  const nats = await connect({ servers: values['nats-url'] });
  const consumer = await jetstream(nats).consumers.get(values.stream, values.consumer);
  const connection = await openSql(values);
  const started = performance.now();
  const stopAt = started + values['stop-after'] * 1000;
  const seconds = () => Number(((performance.now() - started) / 1000).toFixed(6));
  let [taken, rows, setAside] = [0, 0, 0];
  let [written, writing] = [[], null];
  for (;;) {
    const wanted = Math.min(values['batch-rows'], values.events - taken);
    const pulling = wanted > 0 && performance.now() < stopAt ? pull(consumer, wanted, stopAt) : [];
    // waited for together, so that neither's failure is missed while the other goes on
    const [batch, good] = await Promise.all([pulling, writing]);
    const settled = written;
    taken += batch.length;
    const isLate = performance.now() >= stopAt;
    if (isLate) for (const message of batch) message.nak();
    written = isLate ? [] : batch;
    writing = written.length > 0 ? write(connection, values.table, written) : null;
    if (settled.length > 0) {
      rows += good;
      setAside += settled.length - good;
      say({ rows, seconds: seconds() });
      // without waiting for answers: the events of a lost acknowledgement come again
      for (const message of settled) message.ack();
    }
    if (writing === null && (isLate || taken >= values.events)) break;
  }
  await nats.drain();
  connection.close();
  const { user, system } = process.cpuUsage();
  say({ done: true, rows, seconds: seconds(), cpu_seconds: (user + system) / 1e6 });
  process.stderr.write(`${setAside} malformed events set aside\n`);
}

try {
  await run(readArguments());
} catch (error) {
  process.stderr.write(`error: ${error.name}: ${error.message}\n`);
  process.exit(1);
}
