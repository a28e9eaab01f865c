//! A batch's tokens, made ready for the parser.

use sqlparser::dialect::MsSqlDialect;
use sqlparser::keywords::Keyword;
use sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer, Whitespace};

use super::super::error::SqlError;

/// Reads a batch's tokens, without what sqlparser does not know or could not bear.
pub(super) fn read(dialect: &MsSqlDialect, text: &str) -> Result<Vec<TokenWithSpan>, SqlError> {
    let tokens = Tokenizer::new(dialect, text)
        .tokenize_with_location()
        .map_err(|error| SqlError::new(102, 15, 1, format!("Incorrect syntax: {error}.")))?;
    let tokens = without_insert_hints(tokens)?;
    refuse_long_chains(&tokens)?;
    refuse_many_queries(&tokens)?;
    Ok(tokens)
}

/// A query of a dozen bytes becomes a tree of up to 25 thousand.
fn refuse_many_queries(tokens: &[TokenWithSpan]) -> Result<(), SqlError> {
    const MAX_QUERIES: usize = 2000;
    let queries = tokens.iter().filter(|token| is_bare_word(&token.token, "SELECT")).count();
    if queries > MAX_QUERIES {
        return Err(SqlError::new(
            8623,
            16,
            1,
            "The query processor ran out of internal resources and could not produce a query plan. This is a rare event and only expected for extremely complex queries or queries that reference a very large number of tables or partitions. Please simplify the query.",
        ));
    }
    Ok(())
}

/// Takes `WITH (TABLOCK)` out of `INSERT INTO t WITH (TABLOCK)`, which sqlparser does not know. The hints
/// that are taken out change how SQL Server locks and not what it does.
fn without_insert_hints(tokens: Vec<TokenWithSpan>) -> Result<Vec<TokenWithSpan>, SqlError> {
    const HARMLESS: &[&str] = &["TABLOCK", "TABLOCKX", "ROWLOCK", "PAGLOCK"];
    let tokens: Vec<TokenWithSpan> = tokens
        .into_iter()
        .filter(|token| {
            !matches!(
                token.token,
                Token::Whitespace(
                    Whitespace::SingleLineComment { .. }
                        | Whitespace::MultiLineComment(_)
                        | Whitespace::Space
                        | Whitespace::Newline
                        | Whitespace::Tab
                )
            )
        })
        .collect();
    let mut kept: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    let mut rest = tokens.into_iter().peekable();
    while let Some(token) = rest.next() {
        let is_insert = is_bare_word(&token.token, "INSERT");
        kept.push(token);
        if !is_insert {
            continue;
        }
        if rest.peek().is_some_and(|token| is_bare_word(&token.token, "INTO")) {
            kept.extend(rest.next());
        }
        while rest.peek().is_some_and(|token| matches!(&token.token, Token::Period) || matches!(&token.token, Token::Word(word) if word.keyword != Keyword::WITH && !is_bare_word(&token.token, "BULK") && word.keyword != Keyword::SELECT && word.keyword != Keyword::VALUES)) {
            kept.extend(rest.next());
        }
        if rest.peek().is_some_and(|token| is_bare_word(&token.token, "WITH")) {
            let Some(with) = rest.next() else { break };
            if rest.peek().is_none_or(|token| token.token != Token::LParen) {
                kept.push(with);
                continue;
            }
            rest.next();
            for token in rest.by_ref() {
                match &token.token {
                    Token::RParen => break,
                    Token::Comma => {}
                    Token::Word(word)
                        if HARMLESS.iter().any(|hint| word.value.eq_ignore_ascii_case(hint)) => {}
                    other => return Err(SqlError::unsupported(&format!("table hint {other} of INSERT"))),
                }
            }
        }
    }
    Ok(kept)
}

pub(super) fn is_bare_word(token: &Token, text: &str) -> bool {
    matches!(token, Token::Word(word) if word.quote_style.is_none() && word.value.eq_ignore_ascii_case(text))
}

/// Operators that follow each other become expressions within each other, one level for each: as deep as
/// the text is long, unless there is a limit.
fn refuse_long_chains(tokens: &[TokenWithSpan]) -> Result<(), SqlError> {
    const MAX_OPERATORS: usize = 2000;
    let mut counts = vec![0];
    for TokenWithSpan { token, .. } in tokens {
        if *token == Token::LParen {
            counts.push(0);
            continue;
        }
        if *token == Token::RParen && counts.len() > 1 {
            counts.pop();
            continue;
        }
        let Some(count) = counts.last_mut() else { return Ok(()) };
        match token {
            Token::Comma | Token::SemiColon => *count = 0,
            Token::Word(word) => {
                use Keyword::{AND, AT, BETWEEN, COLLATE, EXCEPT, IN, INTERSECT, IS, LIKE, NOT, OR, UNION};
                let chains = [AND, AT, BETWEEN, COLLATE, EXCEPT, IN, INTERSECT, IS, LIKE, NOT, OR, UNION];
                *count += usize::from(word.quote_style.is_none() && chains.contains(&word.keyword));
            }
            Token::Number(..)
            | Token::SingleQuotedString(_)
            | Token::NationalStringLiteral(_)
            | Token::Period => {}
            _ => *count += 1,
        }
        if counts.last().is_some_and(|count| *count > MAX_OPERATORS) {
            return Err(SqlError::too_deep());
        }
    }
    Ok(())
}
