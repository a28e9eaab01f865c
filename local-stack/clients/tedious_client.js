'use strict';
// tedious against a running server: what matrix.py asks for, answered in lines of JSON.
//
//     node tedious_client.js tedious SERVER.json capabilities | parameters | bulk | read WRITER

process.env.TZ = 'UTC';
const fs = require('fs');
const path = require('path');
const { Connection, Request, TYPES, ISOLATION_LEVEL } = require('tedious');

const [, , name, serverFile, command, writer] = process.argv;
const server = JSON.parse(fs.readFileSync(serverFile, 'utf8'));
const load = (file) => JSON.parse(fs.readFileSync(path.join(__dirname, file), 'utf8'));
const say = (line) => process.stdout.write(JSON.stringify(line) + '\n');
const explain = (error) => `${error.name}: ${String(error.message).slice(0, 300)}`;

const ENCRYPT = { on: true, off: false, strict: 'strict' };

function connect(tls = 'on', changed = {}) {
  const at = { ...server, ...changed };
  const connection = new Connection({
    server: 'localhost',
    authentication: { type: 'default', options: { userName: at.user, password: at.password } },
    options: {
      port: at.port,
      database: at.database,
      encrypt: ENCRYPT[tls],
      trustServerCertificate: false,
      cryptoCredentialsDetails: { ca: fs.readFileSync(at.ca_file) },
      rowCollectionOnRequestCompletion: true,
      requestTimeout: at.timeout ?? 15000,
      connectTimeout: 5000,
      useUTC: true
    }
  });
  // told to whoever waits for an answer, too
  connection.on('error', () => {});
  return new Promise((resolve, reject) => connection.connect((error) => (error ? reject(error) : resolve(connection))));
}

/** Rows of the last result; all results where `all`. */
function run(connection, sql, parameters = [], how = 'execSql') {
  return new Promise((resolve, reject) => {
    const results = [];
    const request = new Request(sql, (error) => (error ? reject(error) : resolve(results)));
    for (const [key, type, value, options] of parameters) request.addParameter(key, type, value, options);
    request.on('columnMetadata', () => results.push([]));
    request.on('row', (columns) => results[results.length - 1].push(columns.map((column) => column.value)));
    connection[how](request);
  });
}

const batch = async (connection, sql) => (await run(connection, sql, [], 'execSqlBatch')).pop() ?? [];

async function using(connection, action) {
  try {
    return await action(await connection);
  } finally {
    (await connection.catch(() => null))?.close();
  }
}

function check(condition, what) {
  if (!condition) throw new Error(what);
}

function bulkLoad(connection, table, columns, rows) {
  return new Promise((resolve, reject) => {
    const load = connection.newBulkLoad(table, { keepNulls: true }, (error, count) => (error ? reject(error) : resolve(count)));
    for (const [key, type, options] of columns) load.addColumn(key, type, options);
    connection.execBulkLoad(load, rows);
  });
}

const transaction = (connection, step, ...args) =>
  new Promise((resolve, reject) => connection[step]((error) => (error ? reject(error) : resolve()), ...args));

const CAPABILITIES = {
  'login refused (18456, 4060)': async () => {
    for (const [changed, number] of [[{ password: 'wrong' }, 18456], [{ user: 'nobody' }, 18456], [{ database: 'missing' }, 4060]]) {
      const error = await connect('on', changed).then(() => null, (error) => error);
      check(error, `${JSON.stringify(changed)} was let in`);
      check(error.code === 'ELOGIN' && /^Login failed/.test(error.message), `${number}: ${explain(error)}`);
    }
    check(false, 'the client tells the message and not the number');
  },
  'SQL batch, two results': () => using(connect(), async (connection) => {
    const results = await run(connection, "DECLARE @n int = 1; SELECT @n AS a; SET @n = @n + 1; SELECT @n AS b, N'Ω' AS c", [], 'execSqlBatch');
    check(JSON.stringify(results) === '[[[1]],[[2,"Ω"]]]', JSON.stringify(results));
  }),
  parameters: () => using(connect(), async (connection) => {
    const [rows] = await run(connection, 'SELECT @a, @b, @c', [['a', TYPES.Int, 7], ['b', TYPES.NVarChar, "it's Ω😀"], ['c', TYPES.Int, null]]);
    check(JSON.stringify(rows) === JSON.stringify([[7, "it's Ω😀", null]]), JSON.stringify(rows));
  }),
  'a statement run again and again': () => using(connect(), async (connection) => {
    await batch(connection, 'CREATE TABLE dbo.prepared_js (n int NOT NULL, s nvarchar(20) NULL)');
    const request = new Request('INSERT INTO dbo.prepared_js VALUES (@n, @s)', () => {});
    request.addParameter('n', TYPES.Int);
    request.addParameter('s', TYPES.NVarChar, undefined, { length: 20 });
    const step = (action) => new Promise((resolve, reject) => {
      request.callback = (error) => (error ? reject(error) : resolve());
      action();
    });
    await new Promise((resolve, reject) => {
      request.once('prepared', resolve);
      request.once('error', reject);
      connection.prepare(request);
    });
    for (let n = 0; n < 20; n++) await step(() => connection.execute(request, { n, s: n % 3 ? `text ${n}` : null }));
    await step(() => connection.unprepare(request));
    const rows = await batch(connection, 'SELECT COUNT(*), COUNT(s), SUM(n) FROM dbo.prepared_js');
    check(JSON.stringify(rows) === '[[20,13,190]]', JSON.stringify(rows));
    await batch(connection, 'DROP TABLE dbo.prepared_js');
  }),
  'bulk load': () => using(connect(), async (connection) => {
    await batch(connection, 'CREATE TABLE dbo.bulk_js (n int NOT NULL PRIMARY KEY, o nvarchar(40) NULL)');
    const columns = [['n', TYPES.Int, { nullable: false }], ['o', TYPES.NVarChar, { length: 40, nullable: true }]];
    const rows = Array.from({ length: 20000 }, (_, n) => [n, n % 7 ? `row ${n} Ω` : null]);
    check((await bulkLoad(connection, 'dbo.bulk_js', columns, rows)) === 20000, 'count');
    const error = await bulkLoad(connection, 'dbo.bulk_js', columns, [[90000, 'new'], [5, 'again']]).then(() => null, (error) => error);
    check(error?.number === 2627, error ? explain(error) : 'a duplicate key was let in');
    check((await batch(connection, 'SELECT COUNT(*) FROM dbo.bulk_js'))[0][0] === 20000, 'a failed load left rows');
    await batch(connection, 'DROP TABLE dbo.bulk_js');
  }),
  'commit and rollback': () => using(connect(), (one) => using(connect(), async (other) => {
    await batch(one, 'CREATE TABLE dbo.kept_js (n int)');
    const count = async (connection) => (await batch(connection, 'SELECT COUNT(*) FROM dbo.kept_js'))[0][0];
    await transaction(one, 'beginTransaction', 'mine', ISOLATION_LEVEL.READ_COMMITTED);
    await batch(one, 'INSERT INTO dbo.kept_js VALUES (1)');
    check((await count(other)) === 0, 'seen before its commit');
    await transaction(one, 'rollbackTransaction');
    await transaction(one, 'beginTransaction', 'again', ISOLATION_LEVEL.READ_COMMITTED);
    await batch(one, 'INSERT INTO dbo.kept_js VALUES (2)');
    await transaction(one, 'commitTransaction');
    check((await count(other)) === 1, 'not seen after its commit');
    await batch(one, 'DROP TABLE dbo.kept_js');
  })),
  savepoint: () => using(connect(), async (connection) => {
    await transaction(connection, 'beginTransaction', '', ISOLATION_LEVEL.READ_COMMITTED);
    await batch(connection, 'CREATE TABLE dbo.saved_js (n int); INSERT INTO dbo.saved_js VALUES (1)');
    await transaction(connection, 'saveTransaction', 'here');
    await batch(connection, 'INSERT INTO dbo.saved_js VALUES (2)');
    await transaction(connection, 'rollbackTransaction', 'here');
    await transaction(connection, 'commitTransaction');
    check(JSON.stringify(await batch(connection, 'SELECT n FROM dbo.saved_js')) === '[[1]]', 'rows');
    await batch(connection, 'DROP TABLE dbo.saved_js');
  }),
  'error numbers': () => using(connect(), async (connection) => {
    await batch(connection, 'CREATE TABLE dbo.errors (id int NOT NULL PRIMARY KEY, u int NULL, s varchar(3) NULL, c int NULL CHECK (c > 0)); ' +
      "CREATE UNIQUE INDEX one_u ON dbo.errors (u); INSERT INTO dbo.errors VALUES (1, 1, 'a', 1)");
    for (const [number, sql] of load('errors.json')) {
      const error = await batch(connection, sql).then(() => null, (error) => error);
      check(error?.number === number, `${sql}: ${error ? error.number + ' ' + explain(error) : 'no error'}`);
    }
    await batch(connection, 'DROP TABLE dbo.errors');
  }),
  attention: () => using(connect('on', { timeout: 1000 }), async (connection) => {
    const started = Date.now();
    const error = await batch(connection, "WAITFOR DELAY '00:00:10'").then(() => null, (error) => error);
    check(error?.code === 'ETIMEOUT' && Date.now() - started < 8000, error ? explain(error) : 'it ran to its end');
    check(JSON.stringify(await batch(connection, 'SELECT 1')) === '[[1]]', 'the connection is of no more use');
  }),
  reconnect: () => using(connect(), async (connection) => {
    await batch(connection, 'SET LOCK_TIMEOUT 5; BEGIN TRANSACTION');
    await new Promise((resolve, reject) => connection.reset((error) => (error ? reject(error) : resolve())));
    check(JSON.stringify(await batch(connection, 'SELECT @@TRANCOUNT')) === '[[0]]', '@@TRANCOUNT after a reset');
  })
};

async function capabilities() {
  for (const tls of ['on', 'login only', 'off', 'strict']) {
    const cell = `login, TLS ${tls}`;
    if (!(tls in ENCRYPT)) {
      say({ cell, ok: false, detail: 'the client has no option for it' });
      continue;
    }
    await using(connect(tls), async (connection) => check(JSON.stringify(await batch(connection, 'SELECT 1')) === '[[1]]', 'SELECT 1'))
      .then(() => say({ cell, ok: true }), (error) => say({ cell, ok: false, detail: explain(error) }));
  }
  for (const [cell, action] of Object.entries(CAPABILITIES)) {
    await action().then(() => say({ cell, ok: true }), (error) => say({ cell, ok: false, detail: explain(error) }));
  }
}

const kind = (type) => type.match(/^\w+/)[0];
const numbers = (type) => (type.match(/^\w+\(([\d,]+)\)/)?.[1] ?? '').split(',').filter(Boolean).map(Number);

function types() {
  return load('values.json').map(({ type, row = type, values }) => ({
    type,
    row,
    values: values.map((text) => text.replace(/^\{(\d+)\}(.*)$/su, (_, count, unit) => unit.repeat(Number(count))))
  }));
}

function columnType(type) {
  const [first, second] = numbers(type);
  // its methods throw within a stream, where nobody can catch it
  if (kind(type) === 'xml') throw new Error('the client has no xml to send');
  const names = {
    bit: 'Bit', tinyint: 'TinyInt', smallint: 'SmallInt', int: 'Int', bigint: 'BigInt', real: 'Real', float: 'Float', decimal: 'Decimal',
    money: 'Money', smallmoney: 'SmallMoney', date: 'Date', time: 'Time', datetime2: 'DateTime2', datetimeoffset: 'DateTimeOffset',
    datetime: 'DateTime', smalldatetime: 'SmallDateTime', char: 'Char', varchar: 'VarChar', nchar: 'NChar', nvarchar: 'NVarChar',
    binary: 'Binary', varbinary: 'VarBinary', uniqueidentifier: 'UniqueIdentifier'
  };
  const options = {};
  if (kind(type) === 'decimal') Object.assign(options, { precision: first, scale: second });
  else if (/^(time|datetime2|datetimeoffset)$/.test(kind(type))) options.scale = first;
  else if (type.includes('(max)')) options.length = Infinity;
  else if (first) options.length = first;
  return [TYPES[names[kind(type)]], options];
}

/** A moment in UTC; `nanosecondDelta` holds what a Date cannot, as a part of a second. */
function moment(date, time = '00:00:00') {
  const [whole, fraction = ''] = time.split('.');
  const digits = fraction.padEnd(7, '0');
  const value = new Date(`${date}T${whole}.${digits.slice(0, 3)}Z`);
  value.nanosecondDelta = Number(digits.slice(3)) / 1e7;
  return value;
}

function toNative(type, text) {
  if (text === null) return null;
  switch (kind(type)) {
    case 'bit': return text === '1';
    case 'tinyint': case 'smallint': case 'int': case 'real': case 'float': case 'decimal': case 'money': case 'smallmoney': return Number(text);
    case 'bigint': return BigInt(text);
    case 'date': return moment(text);
    case 'time': return moment('1970-01-01', text);
    case 'datetime2': case 'datetime': return moment(...text.split(' '));
    case 'smalldatetime': return moment(text.slice(0, 10), text.slice(11) + ':00');
    case 'datetimeoffset': {
      const [date, time, offset] = text.split(' ');
      const local = moment(date, time);
      const minutes = (offset[0] === '-' ? -1 : 1) * (Number(offset.slice(1, 3)) * 60 + Number(offset.slice(4)));
      const utc = new Date(local.getTime() - minutes * 60000);
      utc.nanosecondDelta = local.nanosecondDelta;
      return utc;
    }
    case 'binary': case 'varbinary': return Buffer.from(text, 'hex');
    default: return text;
  }
}

function fromNative(type, value) {
  if (value === null) return null;
  const [first, second] = numbers(type);
  const iso = () => {
    const year = String(value.getUTCFullYear()).padStart(4, '0');
    const rest = value.toISOString().replace(/^[+-]?\d+-/, '');
    return { date: `${year}-${rest.slice(0, 5)}`, time: rest.slice(6, 14), milliseconds: rest.slice(15, 18) };
  };
  const clock = (scale) => {
    const { time, milliseconds } = iso();
    const digits = milliseconds + String(Math.round((value.nanosecondsDelta ?? 0) * 1e7)).padStart(4, '0');
    return scale === 0 ? time : `${time}.${digits.slice(0, scale)}`;
  };
  switch (kind(type)) {
    case 'bit': return value ? '1' : '0';
    case 'real': case 'float': return Object.is(value, -0) ? '-0.0' : String(value);
    case 'decimal': return value.toFixed(second);
    case 'money': case 'smallmoney': return value.toFixed(4);
    case 'date': return iso().date;
    case 'time': return clock(first);
    case 'datetime2': return `${iso().date} ${clock(first)}`;
    case 'datetime': return `${iso().date} ${clock(3)}`;
    case 'smalldatetime': return `${iso().date} ${clock(0).slice(0, 5)}`;
    case 'datetimeoffset': return `${iso().date} ${clock(first)} +00:00`;
    case 'binary': case 'varbinary': return value.toString('hex');
    default: return String(value);
  }
}

const tableOf = (writer, index) => `dbo.${writer.replace(/-/g, '_')}_${index}`;

async function bulk() {
  for (const [index, { type, row, values }] of types().entries()) {
    await using(connect(), async (connection) => {
      const table = tableOf(name, index);
      await batch(connection, `CREATE TABLE ${table} (n int NOT NULL, o ${type} NULL, r ${type} NOT NULL)`);
      const [column, options] = columnType(type);
      const native = values.map((text) => toNative(type, text));
      const rows = native.map((value, n) => [n, value, value]);
      rows.push([values.length, null, native[0]]);
      const columns = [['n', TYPES.Int, { nullable: false }], ['o', column, { ...options, nullable: true }], ['r', column, { ...options, nullable: false }]];
      await bulkLoad(connection, table, columns, rows);
    }).then(() => say({ row, error: null }), (error) => say({ row, error: explain(error) }));
  }
}

async function read() {
  await using(connect(), async (connection) => {
    for (const [index, { type, row }] of types().entries()) {
      await batch(connection, `SELECT o, r FROM ${tableOf(writer, index)} ORDER BY n`)
        .then((rows) => say({ row, rows: rows.map((values) => values.map((value) => fromNative(type, value))) }))
        .catch((error) => say({ row, error: explain(error) }));
    }
  });
}

async function parameters() {
  for (const [index, { type, row, values }] of types().entries()) {
    const table = tableOf('by_parameter_js', index);
    await using(connect(), async (connection) => {
      await batch(connection, `CREATE TABLE ${table} (n int, v ${type} NULL)`);
      // the client has no parameter of this type: SQL Server converts a text
      const [column, options] = kind(type) === 'xml' ? [TYPES.NVarChar, {}] : columnType(type);
      for (const [n, text] of [...values, null].entries()) {
        await run(connection, `INSERT INTO ${table} VALUES (@n, @v)`, [['n', TYPES.Int, n], ['v', column, toNative(type, text), options]]);
      }
      const rows = await batch(connection, `SELECT v FROM ${table} ORDER BY n`);
      say({ row, values: rows.map(([value]) => fromNative(type, value)) });
    }).catch((error) => say({ row, error: explain(error) }));
  }
}

({ capabilities, bulk, read, parameters })[command]().catch((error) => {
  process.stderr.write(`${error.stack}\n`);
  process.exitCode = 1;
});
