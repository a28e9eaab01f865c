//! Whether a query makes groups of its rows.

use sqlparser::ast::{Expr, OrderByExpr, Select, SelectItem};

/// Whether an aggregate makes one group of all rows.
pub(super) fn has_aggregate(select: &Select, order: &[OrderByExpr]) -> bool {
    select
        .projection
        .iter()
        .filter_map(|item| match item {
            SelectItem::UnnamedExpr(expression) | SelectItem::ExprWithAlias { expr: expression, .. } => {
                Some(expression)
            }
            _ => None,
        })
        .chain(order.iter().map(|item| &item.expr))
        .any(contains_aggregate)
}

fn contains_aggregate(expression: &Expr) -> bool {
    use sqlparser::ast::{FunctionArg, FunctionArgExpr, FunctionArguments};
    match expression {
        Expr::Function(function) => {
            let name = function.name.to_string().to_ascii_uppercase();
            if super::aggregate::is_aggregate(&name) && function.over.is_none() {
                return true;
            }
            match &function.args {
                FunctionArguments::List(list) => list.args.iter().any(|argument| match argument {
                    FunctionArg::Unnamed(FunctionArgExpr::Expr(inner)) => contains_aggregate(inner),
                    FunctionArg::ExprNamed { name, arg: FunctionArgExpr::Expr(inner), .. } => {
                        contains_aggregate(name) || contains_aggregate(inner)
                    }
                    _ => false,
                }),
                _ => false,
            }
        }
        Expr::Nested(inner)
        | Expr::UnaryOp { expr: inner, .. }
        | Expr::Cast { expr: inner, .. }
        | Expr::Convert { expr: inner, .. }
        | Expr::IsNull(inner)
        | Expr::IsNotNull(inner)
        | Expr::Collate { expr: inner, .. }
        | Expr::Floor { expr: inner, .. }
        | Expr::Ceil { expr: inner, .. }
        | Expr::Trim { expr: inner, .. }
        | Expr::Substring { expr: inner, .. } => contains_aggregate(inner),
        Expr::BinaryOp { left, right, .. } => contains_aggregate(left) || contains_aggregate(right),
        Expr::Between { expr, low, high, .. } => {
            contains_aggregate(expr) || contains_aggregate(low) || contains_aggregate(high)
        }
        Expr::Like { expr, pattern, .. } => contains_aggregate(expr) || contains_aggregate(pattern),
        Expr::In { expr, .. } => contains_aggregate(expr),
        Expr::Case { operand, conditions, else_result, .. } => {
            operand.as_deref().is_some_and(contains_aggregate)
                || conditions
                    .iter()
                    .any(|when| contains_aggregate(&when.condition) || contains_aggregate(&when.result))
                || else_result.as_deref().is_some_and(contains_aggregate)
        }
        _ => false,
    }
}
