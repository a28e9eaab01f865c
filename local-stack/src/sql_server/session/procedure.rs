//! EXECUTE: a batch of its own within a batch, with variables of its own.

use std::collections::HashMap;

use sqlparser::ast::Expr;

use super::super::batch::{self, Argument, Execute, Statement};
use super::super::bind::{Conversion, Typed, Variable, convert};
use super::super::encode::literal;
use super::super::error::SqlError;
use super::super::packet::ConnectionError;
use super::super::types::{Collation, Length, SqlType};
use super::execute::Flow;
use super::transaction::Outcome;
use super::{Session, Writer};

/// What EXECUTE runs.
struct Plan {
    statements: Vec<Statement>,
    variables: HashMap<String, Variable>,
    /// Parameters, and the variables outside that take their values at the end.
    outputs: Vec<(String, String)>,
}

impl Session {
    pub(super) async fn execute(
        &mut self,
        writer: &mut Writer,
        execute: &Execute,
    ) -> Result<Flow, ConnectionError> {
        let Plan { statements, variables, outputs } = match self.plan_execute(execute).await? {
            Ok(plan) => plan,
            Err(error) => return self.raise(writer, error).await,
        };
        let variables = std::mem::replace(&mut self.variables, variables);
        let options = self.options;
        self.scope += 1;
        let flow = self.statements(writer, &statements).await;
        self.leave_scope().await?;
        let inner = std::mem::replace(&mut self.variables, variables);
        let isolation = self.options.isolation;
        self.restore_options(super::Options { isolation, ..options }).await?;
        let flow = flow?;
        if !matches!(flow, Flow::Thrown(_)) {
            for (parameter, variable) in outputs {
                let (Some(Variable { sql_type: from, sql }), Some(outer)) =
                    (inner.get(&parameter), self.variables.get_mut(&variable))
                else {
                    continue;
                };
                match convert(&Typed::new(sql, *from, true), outer.sql_type, Conversion::Explicit) {
                    Ok(sql) => outer.sql = sql,
                    Err(error) => return self.raise(writer, error).await,
                }
            }
        }
        Ok(match flow {
            Flow::End => Flow::Next,
            other => other,
        })
    }

    async fn plan_execute(&mut self, execute: &Execute) -> Outcome<Plan> {
        let text = match self.text(&execute.text).await? {
            Ok(text) => text,
            Err(error) => return Ok(Err(error)),
        };
        let declarations = match &execute.declarations {
            None => String::new(),
            Some(declarations) => match self.text(declarations).await? {
                Ok(text) => text,
                Err(error) => return Ok(Err(error)),
            },
        };
        let (statements, declared) = match (batch::parse(&text), batch::parse_declarations(&declarations)) {
            (Ok(statements), Ok(declared)) => (statements, declared),
            (Err(error), _) | (_, Err(error)) => return Ok(Err(error)),
        };
        let mut plan = Plan { statements, variables: HashMap::new(), outputs: Vec::new() };
        for (index, batch::Declaration { name, sql_type, is_output }) in declared.into_iter().enumerate() {
            let named = |argument: &&Argument| {
                argument.name.as_ref().is_some_and(|own| own.eq_ignore_ascii_case(&name))
            };
            let by_position = || execute.arguments.get(index).filter(|argument| argument.name.is_none());
            let Some(argument) = execute.arguments.iter().find(named).or_else(by_position) else {
                let message = format!(
                    "The parameterized query expects the parameter '{name}', which was not supplied."
                );
                return Ok(Err(SqlError::new(8178, 16, 1, message)));
            };
            if let Some(variable) = &argument.output {
                if !is_output {
                    return Ok(Err(SqlError::new(
                        8162,
                        16,
                        2,
                        format!(
                            "The formal parameter \"{name}\" was not declared as an OUTPUT parameter, but the actual parameter passed in requested output."
                        ),
                    )));
                }
                plan.outputs.push((name.to_lowercase(), variable.to_lowercase()));
            }
            match self.evaluate(&argument.value, sql_type).await? {
                Ok(value) => match literal(sql_type, value.as_deref()) {
                    Ok(sql) => plan.variables.insert(name.to_lowercase(), Variable { sql_type, sql }),
                    Err(error) => return Ok(Err(error)),
                },
                Err(error) => return Ok(Err(error)),
            };
        }
        Ok(Ok(plan))
    }

    /// An expression's value as text; NULL as the empty one.
    pub(super) async fn text(&mut self, expression: &Expr) -> Outcome<String> {
        let value = self.evaluate(expression, SqlType::NVarChar(Length::Max, Collation::Latin1)).await?;
        Ok(value.map(|value| String::from_utf8_lossy(&value.unwrap_or_default()).into_owned()))
    }
}
