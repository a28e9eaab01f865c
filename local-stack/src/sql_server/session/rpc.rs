//! Remote procedure calls: `sp_executesql` and the prepare family, by which clients send parameters.

use super::super::batch::{AppLockProcedure, Declaration, parse_declarations};
use super::super::bind::{Conversion, Typed, Variable, convert};
use super::super::decode::{ColumnDecoder, Target, ValueError};
use super::super::encode::literal;
use super::super::error::SqlError;
use super::super::packet::ConnectionError;
use super::super::read::{Cursor, Truncated};
use super::super::token::{Done, DoneKind, write_done, write_error, write_return_status, write_return_value};
use super::super::type_info::{LengthPrefix, WireType, read_type_info};
use super::super::types::{Length, SqlType};
use super::{Prepared, Session, Writer};

const PROCEDURE_BY_NUMBER: u16 = 0xFFFF;
const FLAG_OUTPUT: u8 = 0x01;
const FLAG_DEFAULT: u8 = 0x02;
/// Ends one call of several in a request.
const END_OF_CALL: u8 = 0xFF;
const MAX_CALLS: usize = 1_000_000;
const MAX_PARAMETERS: usize = 2100;
/// Statements that a session may keep prepared.
const MAX_PREPARED: usize = 10_000;

/// A parameter of a call.
pub(super) struct Parameter<'a> {
    pub(super) name: String,
    pub(super) is_output: bool,
    sql_type: Option<SqlType>,
    /// PostgreSQL's binary form.
    value: Option<Vec<u8>>,
    /// As the client sent it.
    pub(super) wire: WireType,
    pub(super) bytes: &'a [u8],
}

impl Parameter<'_> {
    fn text(&self) -> Option<String> {
        self.sql_type.filter(|sql_type| sql_type.is_text())?;
        String::from_utf8(self.value.clone()?).ok()
    }

    fn int(&self) -> Option<i32> {
        let bytes = self.value.as_deref()?;
        bytes.try_into().ok().map(i32::from_be_bytes)
    }

    /// Whether declaring it so changes nothing about its value.
    pub(super) fn fits(&self, declared: SqlType) -> bool {
        match (self.sql_type, declared) {
            // a bare NULL
            (None, _) => true,
            (Some(sent), declared) if sent == declared => true,
            (Some(SqlType::NVarChar(sent, _)), SqlType::NVarChar(declared, _))
            | (Some(SqlType::VarChar(sent, _)), SqlType::VarChar(declared, _))
            | (Some(SqlType::VarBinary(sent)), SqlType::VarBinary(declared)) => match (sent, declared) {
                (_, Length::Max) => true,
                (Length::Max, Length::Limited(_)) => self.value.is_none(),
                (Length::Limited(sent), Length::Limited(declared)) => sent <= declared,
            },
            (
                Some(SqlType::Decimal { precision: sent, scale: digits }),
                SqlType::Decimal { precision, scale },
            ) => digits == scale && sent <= precision,
            _ => self.value.is_none(),
        }
    }

    fn literal(&self) -> Result<Typed, SqlError> {
        match self.sql_type {
            None => Ok(Typed::null()),
            Some(sql_type) => Ok(Typed::new(literal(sql_type, self.value.as_deref())?, sql_type, true)),
        }
    }
}

/// What a call gives back for an output parameter.
struct ReturnValue {
    name: String,
    sql_type: SqlType,
    /// PostgreSQL's binary form.
    value: Option<Vec<u8>>,
}

/// The procedures that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Procedure {
    ExecuteSql,
    Prepare,
    Execute,
    PrepareAndExecute,
    Unprepare,
    ResetConnection,
    AppLock(AppLockProcedure),
    DescribeParameters,
}

impl Session {
    pub(super) async fn rpc(
        &mut self,
        writer: &mut Writer,
        mut cursor: Cursor<'_>,
    ) -> Result<(), ConnectionError> {
        for _ in 0..MAX_CALLS {
            let call = match read_call(&mut cursor) {
                Ok(call) => Ok(call),
                Err(ValueError::Truncated) => return Err(ConnectionError::Protocol("a call is cut off")),
                Err(ValueError::Refused(error)) => Err(error),
            };
            // where a call cannot be read, nobody knows where the next one begins
            let more = call.is_ok() && cursor.remaining() > 0;
            let outcome = match call {
                Ok((procedure, parameters)) => {
                    self.variables.clear();
                    self.done_kind = DoneKind::InProcedure;
                    self.call(writer, procedure, parameters).await?
                }
                Err(error) => Err(error),
            };
            let mut error = false;
            match outcome {
                Ok(returned) => {
                    write_return_status(&mut writer.buffer, std::mem::take(&mut self.return_status));
                    for (ordinal, ReturnValue { name, sql_type, value }) in (0..).zip(returned) {
                        let value = value.as_deref();
                        let written = write_return_value(&mut writer.buffer, ordinal, &name, sql_type, value);
                        if let Err(refusal) = written {
                            error = true;
                            write_error(&mut writer.buffer, &refusal);
                        }
                    }
                }
                Err(refusal) => {
                    error = true;
                    self.facts.last_error = refusal.number;
                    write_error(&mut writer.buffer, &refusal);
                }
            }
            write_done(&mut writer.buffer, DoneKind::Procedure, Done { error, more, ..Done::default() });
            if !more {
                return Ok(());
            }
            writer.flush_if_large().await?;
        }
        Err(ConnectionError::Protocol("too many calls in one request"))
    }

    async fn call(
        &mut self,
        writer: &mut Writer,
        procedure: Procedure,
        parameters: Vec<Parameter<'_>>,
    ) -> Result<Result<Vec<ReturnValue>, SqlError>, ConnectionError> {
        let missing = |what: &str| {
            SqlError::new(
                201,
                16,
                4,
                format!("Procedure or function expects parameter '{what}', which was not supplied."),
            )
        };
        let mut parameters = parameters.into_iter();
        match procedure {
            Procedure::ResetConnection => Ok(Ok(Vec::new())),
            Procedure::AppLock(procedure) => {
                let arguments = parameters.map(|parameter| {
                    let value = parameter.text().or_else(|| parameter.int().map(|value| value.to_string()));
                    ((!parameter.name.is_empty()).then_some(parameter.name), value)
                });
                let status = self.app_lock(procedure, arguments.collect()).await?;
                Ok(status.map(|status| {
                    self.return_status = status;
                    Vec::new()
                }))
            }
            Procedure::DescribeParameters => {
                let Some(text) = parameters.next().as_ref().and_then(Parameter::text) else {
                    return Ok(Err(missing("@tsql")));
                };
                // parameters that are declared already are none that somebody asks for
                if parameters.next().is_some() {
                    let what = "sp_describe_undeclared_parameters with declared parameters";
                    return Ok(Err(SqlError::unsupported(what)));
                }
                Ok(self.describe_parameters(writer, &text).await?.map(|()| Vec::new()))
            }
            Procedure::ExecuteSql => {
                let Some(text) = parameters.next().as_ref().and_then(Parameter::text) else {
                    return Ok(Err(missing("@statement")));
                };
                let declarations = parameters.next().as_ref().and_then(Parameter::text).unwrap_or_default();
                self.run_with_parameters(writer, &declarations, &text, parameters.collect()).await
            }
            Procedure::Prepare | Procedure::PrepareAndExecute => {
                let Some(handle) = parameters.next() else { return Ok(Err(missing("@handle"))) };
                let declarations = parameters.next().as_ref().and_then(Parameter::text).unwrap_or_default();
                let Some(text) = parameters.next().as_ref().and_then(Parameter::text) else {
                    return Ok(Err(missing("@stmt")));
                };
                if self.prepared.len() >= MAX_PREPARED {
                    return Ok(Err(SqlError::unsupported("more than 10,000 prepared statements")));
                }
                self.last_handle = self.last_handle.wrapping_add(1).max(1);
                let returned = ReturnValue {
                    name: handle.name.clone(),
                    sql_type: SqlType::Int,
                    value: Some(self.last_handle.to_be_bytes().to_vec()),
                };
                self.prepared.insert(
                    self.last_handle,
                    Prepared { declarations: declarations.clone(), text: text.clone() },
                );
                if procedure == Procedure::Prepare {
                    return Ok(Ok(vec![returned]));
                }
                let outcome =
                    self.run_with_parameters(writer, &declarations, &text, parameters.collect()).await?;
                Ok(outcome.map(|mut outputs| {
                    outputs.insert(0, returned);
                    outputs
                }))
            }
            Procedure::Execute => {
                let handle = parameters.next().as_ref().and_then(Parameter::int).unwrap_or(0);
                let Some(Prepared { declarations, text }) = self.prepared.get(&handle).cloned() else {
                    return Ok(Err(SqlError::new(
                        8179,
                        16,
                        1,
                        format!("Could not find prepared statement with handle {handle}."),
                    )));
                };
                self.run_with_parameters(writer, &declarations, &text, parameters.collect()).await
            }
            Procedure::Unprepare => {
                let handle = parameters.next().as_ref().and_then(Parameter::int).unwrap_or(0);
                Ok(match self.prepared.remove(&handle) {
                    Some(_) => Ok(Vec::new()),
                    None => Err(SqlError::new(
                        8179,
                        16,
                        1,
                        format!("Could not find prepared statement with handle {handle}."),
                    )),
                })
            }
        }
    }

    /// Runs a statement with its parameters declared. What it SETs holds only within it.
    async fn run_with_parameters(
        &mut self,
        writer: &mut Writer,
        declarations: &str,
        text: &str,
        parameters: Vec<Parameter<'_>>,
    ) -> Result<Result<Vec<ReturnValue>, SqlError>, ConnectionError> {
        if self.take_planned(writer, declarations, text, &parameters) {
            return Ok(Ok(Vec::new()));
        }
        let declared = match parse_declarations(declarations) {
            Ok(declared) => declared,
            Err(error) => return Ok(Err(error)),
        };
        if parameters.len() > declared.len() {
            return Ok(Err(SqlError::new(
                8144,
                16,
                2,
                "Procedure or function has too many arguments specified.",
            )));
        }
        let mut outputs = Vec::new();
        for (index, Declaration { name, sql_type, is_output }) in declared.iter().enumerate() {
            let named = parameters
                .iter()
                .find(|parameter| !parameter.name.is_empty() && parameter.name.eq_ignore_ascii_case(name));
            let Some(parameter) =
                named.or_else(|| parameters.get(index).filter(|parameter| parameter.name.is_empty()))
            else {
                return Ok(Err(SqlError::new(
                    8178,
                    16,
                    1,
                    format!(
                        "The parameterized query '{text}' expects the parameter '{name}', which was not supplied."
                    ),
                )));
            };
            if parameter.is_output {
                if !is_output {
                    let message = format!(
                        "The formal parameter \"{name}\" was not declared as an OUTPUT parameter, but the actual parameter passed in requested output."
                    );
                    return Ok(Err(SqlError::new(8162, 16, 2, message)));
                }
                outputs.push((parameter.name.clone(), name.to_lowercase(), *sql_type));
            }
            match parameter.literal().and_then(|value| convert(&value, *sql_type, Conversion::Explicit)) {
                Ok(sql) => self.variables.insert(name.to_lowercase(), Variable { sql_type: *sql_type, sql }),
                Err(error) => return Ok(Err(error)),
            };
        }
        let options = self.options;
        self.scope += 1;
        let outcome = self.batch(writer, text).await;
        self.leave_scope().await?;
        self.restore_options(options).await?;
        outcome?;
        if self.discards() && self.facts.last_error == 0 && outputs.is_empty() {
            self.plan_insert(declarations, text, &declared).await?;
        }
        let mut returned = Vec::new();
        for (parameter, name, sql_type) in outputs {
            let Some(sql) = self.variables.get(&name).map(|variable| variable.sql.clone()) else { continue };
            match self.single_value(&format!("SELECT {sql}")).await? {
                Ok(value) => returned.push(ReturnValue { name: parameter, sql_type, value }),
                Err(error) => return Ok(Err(error)),
            }
        }
        Ok(Ok(returned))
    }
}

/// Reads a call without running it; gives how many bytes its parameters have.
pub(super) fn skip_call(cursor: &mut Cursor<'_>) -> Result<usize, ValueError> {
    let (_, parameters) = read_call(cursor)?;
    Ok(parameters.iter().filter_map(|parameter| parameter.value.as_ref()).map(Vec::len).sum())
}

fn read_call<'a>(cursor: &mut Cursor<'a>) -> Result<(Procedure, Vec<Parameter<'a>>), ValueError> {
    let length = cursor.u16()?;
    let procedure = if length == PROCEDURE_BY_NUMBER {
        match cursor.u16()? {
            10 => Procedure::ExecuteSql,
            11 => Procedure::Prepare,
            12 => Procedure::Execute,
            13 => Procedure::PrepareAndExecute,
            15 => Procedure::Unprepare,
            1..=9 => return Err(SqlError::unsupported("server cursor").into()),
            14 => return Err(SqlError::unsupported("sp_prepexecrpc").into()),
            number => {
                return Err(SqlError::new(
                    2812,
                    16,
                    62,
                    format!("Could not find stored procedure number {number}."),
                )
                .into());
            }
        }
    } else {
        let name = cursor.utf16(usize::from(length))?;
        let plain = name.rsplit('.').next().unwrap_or("").trim_matches(['[', ']']).to_ascii_lowercase();
        match plain.as_str() {
            "sp_executesql" => Procedure::ExecuteSql,
            "sp_prepare" => Procedure::Prepare,
            "sp_execute" => Procedure::Execute,
            "sp_prepexec" => Procedure::PrepareAndExecute,
            "sp_unprepare" => Procedure::Unprepare,
            "sp_reset_connection" => Procedure::ResetConnection,
            "sp_describe_undeclared_parameters" => Procedure::DescribeParameters,
            "sp_getapplock" => Procedure::AppLock(AppLockProcedure::Get),
            "sp_releaseapplock" => Procedure::AppLock(AppLockProcedure::Release),
            _ => {
                return Err(SqlError::new(
                    2812,
                    16,
                    62,
                    format!("Could not find stored procedure '{name}'."),
                )
                .into());
            }
        }
    };
    let _options = cursor.u16()?;
    let mut parameters = Vec::new();
    while cursor.remaining() > 0 {
        if cursor.rest().first() == Some(&END_OF_CALL) {
            let _ = cursor.u8();
            break;
        }
        if parameters.len() >= MAX_PARAMETERS + 3 {
            return Err(SqlError::new(8003, 16, 1, "The incoming request has too many parameters. The server supports a maximum of 2100 parameters.").into());
        }
        parameters.push(read_parameter(cursor)?);
    }
    Ok((procedure, parameters))
}

fn read_parameter<'a>(cursor: &mut Cursor<'a>) -> Result<Parameter<'a>, ValueError> {
    let name = cursor.short_text()?;
    let flags = cursor.u8()?;
    if flags & FLAG_DEFAULT != 0 {
        return Err(SqlError::unsupported("default value of a parameter").into());
    }
    let wire: WireType = read_type_info(cursor).map_err(|error| match error {
        super::super::type_info::TypeInfoError::Truncated => ValueError::from(Truncated),
        super::super::type_info::TypeInfoError::Refused(error) => ValueError::Refused(error),
    })?;
    let mut parameter = Parameter {
        name,
        is_output: flags & FLAG_OUTPUT != 0,
        sql_type: wire.sql_type,
        value: None,
        wire,
        bytes: &[],
    };
    if wire.prefix == LengthPrefix::Fixed(0) {
        return Ok(parameter);
    }
    let Some(sql_type) = wire.sql_type else { return Ok(parameter) };
    // a text of no length is declared as one of length 0, which no column has
    let sql_type = match sql_type {
        SqlType::NVarChar(super::super::types::Length::Limited(0), c) => {
            SqlType::NVarChar(super::super::types::Length::Limited(1), c)
        }
        SqlType::VarChar(super::super::types::Length::Limited(0), c) => {
            SqlType::VarChar(super::super::types::Length::Limited(1), c)
        }
        SqlType::VarBinary(super::super::types::Length::Limited(0)) => {
            SqlType::VarBinary(super::super::types::Length::Limited(1))
        }
        other => other,
    };
    parameter.sql_type = Some(sql_type);
    let target = Target { table: String::new(), column: parameter.name.clone(), ordinal: 1 };
    let decoder = ColumnDecoder::new(wire, sql_type, true, target)?;
    let mut field = Vec::new();
    let rest = cursor.rest();
    decoder.decode(cursor, &mut field)?;
    parameter.bytes = &rest[..rest.len() - cursor.remaining()];
    let (length, bytes) = field.split_first_chunk::<4>().ok_or(Truncated)?;
    if *length != [0xFF; 4] {
        parameter.value = Some(bytes.to_vec());
    }
    Ok(parameter)
}

#[cfg(test)]
mod tests {
    use super::super::super::noise::Noise;
    use super::super::super::types::{Collation, Length};
    use super::*;

    /// `sp_executesql` with two texts and a number.
    fn call() -> Vec<u8> {
        let mut bytes = vec![0xFF, 0xFF, 10, 0, 0, 0];
        let text = SqlType::NVarChar(Length::Limited(4000), Collation::Latin1);
        for value in ["SELECT @n", "@n int"] {
            bytes.extend_from_slice(&[0, 0]);
            super::super::super::type_info::write_type_info(&mut bytes, text, true);
            super::super::super::encode::write_value(&mut bytes, text, true, Some(value.as_bytes())).unwrap();
        }
        bytes.extend_from_slice(&[2, b'@', 0, b'n', 0, 0, 0x26, 4, 4, 7, 0, 0, 0]);
        bytes
    }

    #[test]
    fn a_call_is_read() {
        let bytes = call();
        let mut cursor = Cursor::new(&bytes);
        let (procedure, parameters) = read_call(&mut cursor).ok().unwrap();
        assert_eq!(procedure, Procedure::ExecuteSql);
        assert_eq!(parameters[0].text().as_deref(), Some("SELECT @n"));
        assert_eq!((parameters[2].name.as_str(), parameters[2].int()), ("@n", Some(7)));
        assert_eq!(cursor.remaining(), 0);
    }

    #[test]
    fn an_application_lock_can_be_called_by_its_name() {
        let name: Vec<u16> = "sp_getapplock".encode_utf16().collect();
        let mut bytes = u16::try_from(name.len()).unwrap().to_le_bytes().to_vec();
        name.iter().for_each(|unit| bytes.extend_from_slice(&unit.to_le_bytes()));
        bytes.extend_from_slice(&[0, 0]);
        bytes.extend_from_slice(&call()[6..]);
        let (procedure, parameters) = read_call(&mut Cursor::new(&bytes)).ok().unwrap();
        assert_eq!(procedure, Procedure::AppLock(AppLockProcedure::Get));
        assert_eq!(parameters.len(), 3);
    }

    #[test]
    fn a_call_of_any_bytes_is_read_or_refused() {
        let mut noise = Noise::new(4);
        let valid = call();
        for _ in 0..50_000 {
            let _ = read_call(&mut Cursor::new(&noise.mutate(&valid)));
        }
    }
}
