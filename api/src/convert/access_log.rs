//! What the access log tells, to the wire and back.

use std::time::Duration;

use model::{AccessLog, LogFact, LogField, LogFilter, LogValue};

use crate::snapshot::{self as wire, log_field::Value, log_filter::Filter};

/// A policy that this version cannot follow.
#[derive(Debug, thiserror::Error)]
#[error("the access log's {0} is unknown")]
pub(super) struct Unknown(String);

impl From<&AccessLog> for wire::AccessLog {
    fn from(log: &AccessLog) -> Self {
        let field = |field: &LogField| wire::LogField {
            name: field.name.clone(),
            value: Some(match &field.value {
                LogValue::Constant(text) => Value::Constant(text.clone()),
                LogValue::RequestHeader(name) => Value::RequestHeader(name.clone()),
                LogValue::ResponseHeader(name) => Value::ResponseHeader(name.clone()),
                LogValue::Fact(fact) => Value::Fact(fact.as_str().to_owned()),
            }),
        };
        Self { fields: log.fields.iter().map(field).collect(), filter: log.filter.as_ref().map(filter) }
    }
}

fn filter(from: &LogFilter) -> wire::LogFilter {
    let several = |parts: &[LogFilter]| wire::LogFilters { filters: parts.iter().map(filter).collect() };
    let to = match from {
        LogFilter::All(parts) => Filter::All(several(parts)),
        LogFilter::Any(parts) => Filter::Any(several(parts)),
        LogFilter::Not(part) => Filter::Not(Box::new(filter(part))),
        LogFilter::StatusClasses(classes) => {
            let bit = |class: &u8| 1_u32.checked_shl((*class).into()).unwrap_or(0);
            Filter::StatusClasses(classes.iter().map(bit).fold(0, |bits, bit| bits | bit))
        }
        LogFilter::MinDuration(least) => {
            Filter::MinDurationUs(u64::try_from(least.as_micros()).unwrap_or(u64::MAX))
        }
        LogFilter::SampledPpm(share) => Filter::SampledPpm(*share),
        LogFilter::Failed => Filter::Failed(wire::LogFailed {}),
        LogFilter::RequestHeader { name, value } => {
            Filter::RequestHeader(wire::LogHeader { name: name.clone(), value: value.clone() })
        }
    };
    wire::LogFilter { filter: Some(to) }
}

pub(super) fn read(log: wire::AccessLog) -> Result<AccessLog, Unknown> {
    let field = |field: wire::LogField| {
        let value = match field.value {
            Some(Value::Constant(text)) => LogValue::Constant(text),
            Some(Value::RequestHeader(name)) => LogValue::RequestHeader(name),
            Some(Value::ResponseHeader(name)) => LogValue::ResponseHeader(name),
            Some(Value::Fact(fact)) => {
                LogValue::Fact(LogFact::parse(&fact).ok_or_else(|| Unknown(format!("fact {fact:?}")))?)
            }
            None => return Err(Unknown(format!("field {:?}", field.name))),
        };
        Ok(LogField { name: field.name, value })
    };
    Ok(AccessLog {
        fields: log.fields.into_iter().map(field).collect::<Result<_, _>>()?,
        filter: log.filter.map(read_filter).transpose()?,
    })
}

/// Decoding has bounded how deep they are.
fn read_filter(from: wire::LogFilter) -> Result<LogFilter, Unknown> {
    let several =
        |parts: wire::LogFilters| parts.filters.into_iter().map(read_filter).collect::<Result<_, _>>();
    Ok(match from.filter.ok_or_else(|| Unknown("filter".to_owned()))? {
        Filter::All(parts) => LogFilter::All(several(parts)?),
        Filter::Any(parts) => LogFilter::Any(several(parts)?),
        Filter::Not(part) => LogFilter::Not(Box::new(read_filter(*part)?)),
        Filter::StatusClasses(bits) => {
            LogFilter::StatusClasses((1..=5).filter(|class| bits & 1 << class != 0).collect())
        }
        Filter::MinDurationUs(least) => LogFilter::MinDuration(Duration::from_micros(least)),
        Filter::SampledPpm(share) => LogFilter::SampledPpm(share),
        Filter::Failed(wire::LogFailed {}) => LogFilter::Failed,
        Filter::RequestHeader(wire::LogHeader { name, value }) => LogFilter::RequestHeader { name, value },
    })
}
