//! The codec against tables of messages, and against itself.

mod chunked;
mod properties;
mod request_table;
mod requests;
mod response_table;
mod responses;
mod writing;

use super::*;

/// What a table says of one message: a summary of what was understood, or the error's kind and status.
type Verdict = Result<&'static str, (&'static str, u16)>;

/// Cases that differ in one part of a message.
struct Class {
    name: &'static str,
    before: &'static [u8],
    after: &'static [u8],
    cases: &'static [(&'static [u8], Verdict)],
}

fn body_name(body: BodyLength) -> String {
    match body {
        BodyLength::None => "none".to_owned(),
        BodyLength::Length(length) => length.to_string(),
        BodyLength::Chunked => "chunked".to_owned(),
        BodyLength::UntilClose => "until-close".to_owned(),
    }
}

fn parse_request(input: &[u8], limits: &Limits) -> Result<Option<ParsedRequest>, RequestError> {
    RequestParser::default().parse(input, limits)
}

fn parse_response(input: &[u8], request: Method) -> Result<Option<ParsedResponse>, ResponseError> {
    ResponseParser::default().parse(input, request, &Limits::default())
}

fn summary(parsed: &ParsedRequest) -> String {
    let ParsedRequest { head, framing, .. } = parsed;
    let port = head.port().map_or(String::new(), |port| format!(":{port}"));
    let query = head.query().map_or(String::new(), |query| format!("?{query}"));
    let mut text = format!(
        "{} {}{port} {}{query} {} {}",
        head.method_str(),
        head.host(),
        head.path(),
        body_name(framing.body),
        if framing.keep_alive { "keep" } else { "close" }
    );
    if framing.expect_continue {
        text.push_str(" continue");
    }
    match framing.upgrade {
        Some(Upgrade::WebSocket) => text.push_str(" websocket"),
        Some(Upgrade::Other) => text.push_str(" upgrade"),
        None => {}
    }
    text
}
