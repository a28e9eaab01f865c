//! One JSON object into the current row: straight from the payload's bytes, without a tree in between.

use super::keys::{Key, ObjectId};
use super::plan::{Misfit, Plan, Work};
use super::scan::{Cursor, Fault, unescape};
use crate::schema::{MAX_DEPTH, Number, Problem, RejectKind, Scalar};

const DUPLICATE: Problem = Problem::new(RejectKind::DuplicateKey, "the field occurs twice");
const EXPECTED_OBJECT: Problem = Problem::new(RejectKind::WrongType, "expected an object");
const EXPECTED_SCALAR: Problem =
    Problem::new(RejectKind::WrongType, "expected a value, not an object or an array");

impl From<Fault> for Misfit {
    fn from(fault: Fault) -> Self {
        Misfit { kind: fault.kind, rule: fault.rule, column: None, offset: Some(fault.offset) }
    }
}

fn misfit(problem: Problem, column: usize, offset: usize) -> Misfit {
    Misfit { kind: problem.kind, rule: problem.rule, column: Some(column), offset: Some(offset) }
}

/// Fills the columns of the current row that read fields of the payload, as far as they are there.
pub(super) fn decode(plan: &Plan, payload: &[u8], work: &mut Work) -> Result<(), Misfit> {
    let text = std::str::from_utf8(payload).map_err(|error| Misfit {
        kind: RejectKind::BadUtf8,
        rule: "not UTF-8",
        column: None,
        offset: Some(error.valid_up_to()),
    })?;
    let mut reader = Reader { plan, work, cursor: Cursor::new(text) };
    match reader.cursor.peek_token() {
        Some(b'{') => {
            reader.cursor.advance(1);
            reader.object(0, 1)?;
        }
        None => return Err(reader.cursor.fault_of(RejectKind::EmptyPayload, "holds nothing").into()),
        // RFC 8259 forbids to send one.
        Some(0xEF) if text.starts_with('\u{feff}') => {
            return Err(reader.cursor.fault("begins with a byte order mark").into());
        }
        Some(_) => {
            // What is no JSON at all is called so, also where it is no object either.
            reader.cursor.skip_value(0)?;
            reader.end()?;
            return Err(Misfit {
                kind: RejectKind::NotAnObject,
                rule: "expected an object",
                column: None,
                offset: Some(0),
            });
        }
    }
    reader.end()
}

struct Reader<'p, 'w, 'a> {
    plan: &'p Plan,
    work: &'w mut Work,
    cursor: Cursor<'a>,
}

impl Reader<'_, '_, '_> {
    fn end(&mut self) -> Result<(), Misfit> {
        match self.cursor.peek_token() {
            None => Ok(()),
            Some(_) => {
                Err(self.cursor.fault_of(RejectKind::TrailingData, "something follows the JSON value").into())
            }
        }
    }

    /// Reads an object, after its opening brace, at `depth` levels. It calls itself for the objects that the
    /// schema's paths lead into, of which there are at most 64 levels.
    fn object(&mut self, id: ObjectId, depth: usize) -> Result<(), Misfit> {
        let plan = self.plan;
        let Some(object) = plan.keys.objects.get(id) else { return Ok(self.cursor.skip_value(depth)?) };
        if self.cursor.peek_token() == Some(b'}') {
            self.cursor.advance(1);
            return Ok(());
        }
        // Producers write their keys in one order, mostly: the next key is probably the schema's next.
        let mut expected = 0;
        loop {
            self.cursor.expect(b'"', "expected a key")?;
            let found = match object.keys.get(expected) {
                Some(key) if key.begins(self.cursor.rest()) => {
                    self.cursor.advance(key.name.len() + 1);
                    Some(expected)
                }
                _ => {
                    let raw = self.cursor.string()?;
                    match raw.is_escaped {
                        false => object.find(raw.text),
                        true => {
                            self.work.unescaped.clear();
                            unescape(raw.text, &mut self.work.unescaped);
                            object.find(&self.work.unescaped)
                        }
                    }
                }
            };
            self.cursor.expect(b':', "expected a colon")?;
            match found.and_then(|index| object.keys.get(index)) {
                Some(key) => {
                    self.field(key, depth)?;
                    expected = found.map_or(expected, |index| index + 1);
                }
                None => self.cursor.skip_value(depth)?,
            }
            match self.cursor.peek_token() {
                Some(b',') => {
                    self.cursor.advance(1);
                }
                Some(b'}') => {
                    self.cursor.advance(1);
                    return Ok(());
                }
                _ => return Err(self.cursor.fault("expected a comma or the end of an object").into()),
            }
        }
    }

    /// Reads the value of a key that columns want, for all of them.
    #[inline]
    fn field(&mut self, key: &Key, depth: usize) -> Result<(), Misfit> {
        let first = self.cursor.peek_token();
        let start = self.cursor.offset();
        if self.work.see(key.id) {
            return Err(misfit(DUPLICATE, key.example, start));
        }
        match first {
            Some(b'n') => {
                // As if it were absent, also for the columns within it.
                self.cursor.literal(b"null")?;
                return Ok(());
            }
            Some(b'{') => self.nested_object(key, depth)?,
            Some(b'[') => {
                self.cursor.skip_value(depth)?;
                if let Some(column) = key.columns.first() {
                    return Err(misfit(EXPECTED_SCALAR, *column, start));
                }
                if key.object.is_some() {
                    return Err(misfit(EXPECTED_OBJECT, key.example, start));
                }
            }
            Some(b'"') => {
                self.cursor.advance(1);
                let raw = self.cursor.string()?;
                match raw.is_escaped {
                    false => self.scalar(key, Scalar::Text(raw.text), start)?,
                    true => {
                        let mut unescaped = std::mem::take(&mut self.work.unescaped);
                        unescaped.clear();
                        unescape(raw.text, &mut unescaped);
                        let outcome = self.scalar(key, Scalar::Text(&unescaped), start);
                        self.work.unescaped = unescaped;
                        outcome?;
                    }
                }
            }
            Some(b'-' | b'0'..=b'9') => {
                let number: Number<'_> = self.cursor.number()?;
                self.scalar(key, Scalar::Number(number), start)?;
            }
            Some(b't') => {
                self.cursor.literal(b"true")?;
                self.scalar(key, Scalar::Bool(true), start)?;
            }
            Some(b'f') => {
                self.cursor.literal(b"false")?;
                self.scalar(key, Scalar::Bool(false), start)?;
            }
            _ => return Err(self.cursor.fault("not a JSON value").into()),
        }
        match key.json_columns.is_empty() {
            true => Ok(()),
            false => self.json_text(key, start),
        }
    }

    fn nested_object(&mut self, key: &Key, depth: usize) -> Result<(), Misfit> {
        let start = self.cursor.offset();
        if let Some(column) = key.columns.first() {
            self.cursor.skip_value(depth)?;
            return Err(misfit(EXPECTED_SCALAR, *column, start));
        }
        match key.object {
            Some(_) if depth >= MAX_DEPTH => Err(self.cursor.too_deep().into()),
            Some(object) => {
                self.cursor.advance(1);
                self.object(object, depth + 1)
            }
            None => Ok(self.cursor.skip_value(depth)?),
        }
    }

    #[inline]
    fn scalar(&mut self, key: &Key, scalar: Scalar<'_>, start: usize) -> Result<(), Misfit> {
        if key.object.is_some() {
            return Err(misfit(EXPECTED_OBJECT, key.example, start));
        }
        for column in &key.columns {
            self.work.set(self.plan, *column, &scalar).map_err(|problem| misfit(problem, *column, start))?;
        }
        Ok(())
    }

    /// Sets the columns that take the JSON text which ends here.
    fn json_text(&mut self, key: &Key, start: usize) -> Result<(), Misfit> {
        let text = self.cursor.between(start, self.cursor.offset())?;
        for column in &key.json_columns {
            self.work
                .set_text(self.plan, *column, text)
                .map_err(|problem| misfit(problem, *column, start))?;
        }
        Ok(())
    }
}
