// From an event to a row of the table: the columns of schemas/telemetry.toml, in its order.

export const COLUMN_NAMES = [
  'event_id', 'device', 'site', 'sequence', 'temperature', 'humidity', 'ok', 'recorded_at', 'message', 'stream_sequence'
];

/** An event that is not a row of this table. */
export class Malformed extends Error {}

const UUID = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;
// what decimal(5,2) holds: zeros behind do not count
const HUMIDITY = /^-?(?:0|[1-9]\d{0,2})(?:\.\d{1,2}0*)?$/;
// RFC 3339
const MOMENT = /^\d{4}-\d\d-(\d\d)[Tt ]\d\d:\d\d:\d\d(?:\.\d{1,3}(\d)?\d*)?(Z|z|[+-]\d\d:\d\d)?$/;
// what the code page of SQL Server's default collation has in common with Latin-1: tedious would put a question mark in the place
// of what the code page does not have
const LATIN_1 = /^[\x00-\x7f\xa0-\xff]*$/;

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

function check(condition, what) {
  if (!condition) throw new Malformed(what);
}

/** The length of text counts UTF-16 units, as nvarchar does. */
const isText = (value, longest) => typeof value === 'string' && value.length <= longest;
const isAbsent = (value) => value === undefined || value === null;

/** The row of one event, or Malformed. */
export function row(payload, streamSequence) {
  let event;
  try {
    event = JSON.parse(utf8.decode(payload));
  } catch (error) {
    throw new Malformed(error.message);
  }
  check(typeof event === 'object' && event !== null, 'not an object');
  const { event_id, device, sequence, temperature, humidity, ok, message } = event;
  check(typeof event_id === 'string' && UUID.test(event_id), 'event_id is not a UUID');
  check(typeof device === 'object' && device !== null, 'device is not an object');
  check(isText(device.id, 64), 'device.id does not fit');
  check(isAbsent(device.site) || isText(device.site, 32), 'device.site does not fit');
  check(isAbsent(device.site) || LATIN_1.test(device.site), 'device.site has a character that varchar does not hold');
  // a larger one has lost digits
  check(Number.isSafeInteger(sequence), 'sequence is not an integer');
  check(isAbsent(temperature) || Number.isFinite(temperature), 'temperature is not a number');
  check(typeof ok === 'boolean', 'ok is not true or false');
  check(isAbsent(message) || isText(message, 200), 'message does not fit');
  return [
    event_id, device.id, device.site ?? null, sequence, temperature ?? null, isAbsent(humidity) ? null : decimal(humidity), ok,
    milliseconds(event.recorded_at), message ?? null, streamSequence
  ];
}

/** A number that decimal(5,2) holds: the client sends it as so many hundredths. */
function decimal(humidity) {
  check(typeof humidity === 'string' || typeof humidity === 'number', 'humidity is not a number');
  check(HUMIDITY.test(humidity), 'humidity does not fit into decimal(5,2)');
  return Number(humidity);
}

/** In UTC, rounded half up as SQL Server would; Date would cut. */
function milliseconds(text) {
  check(typeof text === 'string', 'recorded_at is not a text');
  const match = MOMENT.exec(text);
  check(match !== null, 'recorded_at is not by RFC 3339');
  const [, day, next, offset] = match;
  const moment = Date.parse(offset === undefined ? `${text}Z` : text);
  check(!Number.isNaN(moment), 'recorded_at does not exist');
  // Date takes the 30th of February for the 2nd of March
  const midnight = new Date(`${text.slice(0, 10)}T00:00:00Z`);
  check(day <= '28' || midnight.getUTCDate() === Number(day), 'recorded_at does not exist');
  return new Date(next >= '5' ? moment + 1 : moment);
}
