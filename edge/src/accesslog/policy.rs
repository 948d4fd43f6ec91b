//! What a listener's policy adds to its lines, and of which requests there are lines.
//!
//! Headers are looked at while they are there, all else when the request is over.

use std::{borrow::Cow, ops::Range, time::Duration};

use model::{AccessLog, LogFact, LogFilter, LogValue};

use super::{entry::Line, json::Object};
use crate::{h1::Fields, journal::Facts, tls::clients::hexadecimal};

/// Bytes of a value in a line.
const VALUE: usize = 256;

/// An access log's policy, ready to be applied.
#[derive(Debug)]
pub(crate) struct Policy {
    fields: Box<[(Box<str>, Source)]>,
    filter: Option<Filter>,
    /// What the filter asks of the request's head.
    tests: Box<[Test]>,
    /// Some field is one of the response's.
    pub(crate) looks_at_response: bool,
}

#[derive(Debug)]
enum Source {
    Constant(Box<str>),
    RequestHeader(Box<str>),
    ResponseHeader(Box<str>),
    Fact(LogFact),
}

/// A filter whose questions to the head are numbered: they are answered when the head is there.
#[derive(Debug)]
enum Filter {
    All(Box<[Self]>),
    Any(Box<[Self]>),
    Not(Box<Self>),
    /// A bit for each class.
    StatusClasses(u8),
    MinDuration(Duration),
    SampledPpm(u32),
    Failed,
    Test(u32),
}

#[derive(Debug)]
struct Test {
    name: Box<str>,
    value: Option<Box<str>>,
}

const MILLION: u64 = 1_000_000;

impl Policy {
    pub(crate) fn new(log: &AccessLog) -> Self {
        let source = |value: &LogValue| match value {
            LogValue::Constant(text) => Source::Constant(text.as_str().into()),
            LogValue::RequestHeader(name) => Source::RequestHeader(name.as_str().into()),
            LogValue::ResponseHeader(name) => Source::ResponseHeader(name.as_str().into()),
            LogValue::Fact(fact) => Source::Fact(*fact),
        };
        let mut tests = vec![];
        let filter = log.filter.as_ref().map(|filter| Filter::new(filter, &mut tests));
        Self {
            fields: log
                .fields
                .iter()
                .map(|field| (field.name.as_str().into(), source(&field.value)))
                .collect(),
            filter,
            tests: tests.into(),
            looks_at_response: log.fields.iter().any(|f| matches!(f.value, LogValue::ResponseHeader(_))),
        }
    }

    /// Takes what it wants of the request's head, as the client sent it.
    pub(crate) fn request(&self, line: &mut Line, head: &Fields) {
        for (number, (_, source)) in self.fields.iter().enumerate() {
            if let Source::RequestHeader(name) = source {
                line.values.add(number, head.joined(name));
            }
        }
        for (number, test) in self.tests.iter().enumerate() {
            let value = head.joined(&test.name);
            let holds = value
                .is_some_and(|value| test.value.as_ref().is_none_or(|wanted| *value == *wanted.as_bytes()));
            line.values.tests |=
                u32::from(holds).checked_shl(u32::try_from(number).unwrap_or(u32::MAX)).unwrap_or(0);
        }
    }

    /// Takes what it wants of the response's head, as the client gets it.
    pub(crate) fn response(&self, line: &mut Line, head: &Fields) {
        for (number, (_, source)) in self.fields.iter().enumerate() {
            if let Source::ResponseHeader(name) = source {
                line.values.add(number, head.joined(name));
            }
        }
    }

    /// Whether there is a line of a request that is over; `draw` gives a number below its argument.
    pub(crate) fn wants(&self, line: &Line, facts: &Facts, draw: impl Fn(u64) -> u64) -> bool {
        self.filter.as_ref().is_none_or(|filter| filter.holds(line.values.tests, facts, &draw))
    }
}

impl Filter {
    fn new(filter: &LogFilter, tests: &mut Vec<Test>) -> Self {
        match filter {
            LogFilter::All(parts) => Self::All(parts.iter().map(|part| Self::new(part, tests)).collect()),
            LogFilter::Any(parts) => Self::Any(parts.iter().map(|part| Self::new(part, tests)).collect()),
            LogFilter::Not(part) => Self::Not(Box::new(Self::new(part, tests))),
            LogFilter::StatusClasses(classes) => {
                Self::StatusClasses(classes.iter().fold(0, |bits, class| bits | bit(*class)))
            }
            LogFilter::MinDuration(least) => Self::MinDuration(*least),
            LogFilter::SampledPpm(share) => Self::SampledPpm(*share),
            LogFilter::Failed => Self::Failed,
            LogFilter::RequestHeader { name, value } => {
                tests.push(Test { name: name.as_str().into(), value: value.as_deref().map(Into::into) });
                Self::Test(u32::try_from(tests.len() - 1).unwrap_or(u32::MAX))
            }
        }
    }

    fn holds(&self, tests: u32, facts: &Facts, draw: &impl Fn(u64) -> u64) -> bool {
        match self {
            Self::All(parts) => parts.iter().all(|part| part.holds(tests, facts, draw)),
            Self::Any(parts) => parts.iter().any(|part| part.holds(tests, facts, draw)),
            Self::Not(part) => !part.holds(tests, facts, draw),
            Self::StatusClasses(classes) => {
                classes & bit(u8::try_from(facts.status / 100).unwrap_or(u8::MAX)) != 0
            }
            Self::MinDuration(least) => facts.duration >= *least,
            Self::SampledPpm(share) => draw(MILLION) < u64::from(*share),
            Self::Failed => facts.failed(),
            Self::Test(number) => tests.checked_shr(*number).is_some_and(|bits| bits & 1 == 1),
        }
    }
}

/// A class of status as a bit; none for what is no class.
fn bit(class: u8) -> u8 {
    1_u8.checked_shl(class.into()).unwrap_or(0)
}

/// What a policy has taken of one request's heads.
#[derive(Debug, Default)]
pub(super) struct Values {
    text: String,
    /// The number of the field, and its part of the text.
    parts: Vec<(usize, Range<usize>)>,
    /// Which of the filter's tests hold, a bit for each.
    tests: u32,
}

impl Values {
    pub(super) fn clear(&mut self) {
        self.text.clear();
        self.parts.clear();
        self.tests = 0;
    }

    fn add(&mut self, number: usize, value: Option<Cow<'_, [u8]>>) {
        let Some(value) = value else { return };
        // A little more than is logged, so that the line shows that it was cut.
        let value = &value[..value.len().min(VALUE + 4)];
        let begin = self.text.len();
        self.text.push_str(&String::from_utf8_lossy(value));
        self.parts.push((number, begin..self.text.len()));
    }

    fn of(&self, number: usize) -> Option<&str> {
        let (_, part) = self.parts.iter().find(|(field, _)| *field == number)?;
        self.text.get(part.clone())
    }
}

/// The fields that a policy adds to a request's line.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Custom<'a> {
    pub(crate) policy: &'a Policy,
    pub(crate) line: &'a Line,
    pub(crate) facts: &'a Facts,
}

impl Custom<'_> {
    pub(super) fn write(&self, line: &mut Object<'_>) {
        for (number, (name, source)) in self.policy.fields.iter().enumerate() {
            match source {
                Source::Constant(text) => line.text(name, text, VALUE),
                Source::RequestHeader(_) | Source::ResponseHeader(_) => {
                    line.some_text(name, self.line.values.of(number), VALUE);
                }
                Source::Fact(fact) => self.write_fact(*fact, name, line),
            }
        }
    }

    fn write_fact(&self, fact: LogFact, name: &str, line: &mut Object<'_>) {
        let (facts, place, tried) = (self.facts, self.facts.place.as_ref(), self.facts.tried());
        let number = match fact {
            LogFact::Listener => {
                return line.some_text(name, place.map(|place| &*place.entrance.listener), VALUE);
            }
            LogFact::Rule => {
                return line.some_text(name, place.map(|place| place.rule_text()).as_deref(), VALUE);
            }
            LogFact::Backend => return line.some_text(name, facts.backend.as_deref(), VALUE),
            LogFact::Detail => return line.some_text(name, facts.detail.as_deref(), VALUE),
            LogFact::UpstreamStatus => {
                tried.filter(|tried| tried.status > 0).map(|tried| tried.status.into())
            }
            LogFact::ConnectTime => {
                tried.and_then(|tried| Some(tried.connected_us?.saturating_sub(tried.began_us).into()))
            }
            LogFact::QueueDelay => Some(facts.queue_delay_us.into()),
            LogFact::ClientVerify
            | LogFact::ClientSubject
            | LogFact::ClientIssuer
            | LogFact::ClientSerial
            | LogFact::ClientFingerprint
            | LogFact::ClientUris
            | LogFact::ClientDnsNames => return self.write_client(fact, name, line),
        };
        if let Some(number) = number {
            line.number(name, number);
        }
    }

    /// What is known of the client's certificate.
    fn write_client(&self, fact: LogFact, name: &str, line: &mut Object<'_>) {
        let Some(credentials) = self.line.credentials.as_deref().filter(|shown| shown.are_some()) else {
            return;
        };
        let told = credentials.told();
        let text = match fact {
            LogFact::ClientVerify => Some(credentials.verify().to_owned()),
            LogFact::ClientSubject => told.map(|told| told.subject.clone()),
            LogFact::ClientIssuer => told.map(|told| told.issuer.clone()),
            LogFact::ClientSerial => told.map(|told| told.serial.clone()),
            LogFact::ClientFingerprint => told.map(|told| hexadecimal(&told.fingerprint)),
            LogFact::ClientUris => told.map(|told| told.uris.join(",")),
            LogFact::ClientDnsNames => told.map(|told| told.dns.join(",")),
            _ => None,
        };
        line.some_text(name, text.as_deref().filter(|text| !text.is_empty()), VALUE);
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use model::LogField;

    use super::*;
    use crate::{journal::RequestId, metrics::Outcome};

    fn header(name: &str, value: Option<&str>) -> LogFilter {
        LogFilter::RequestHeader { name: name.to_owned(), value: value.map(str::to_owned) }
    }

    fn fine() -> Facts {
        let mut facts = Facts::new(RequestId::new(0, 1), UNIX_EPOCH);
        (facts.status, facts.outcome) = (200, Outcome::Forwarded);
        facts
    }

    #[test]
    fn a_filter_says_which_requests_there_are_lines_of() {
        let mut head = Fields::new();
        head.push("X-Debug", b"1").unwrap();
        let slow = || LogFilter::MinDuration(Duration::from_millis(100));
        let classes = |classes: &[u8]| LogFilter::StatusClasses(classes.to_vec());
        let took = |ms| Facts { duration: Duration::from_millis(ms), ..fine() };
        for (name, filter, facts, expect) in [
            ("a class", classes(&[4, 5]), Facts { status: 404, ..fine() }, true),
            ("another class", classes(&[4, 5]), fine(), false),
            ("no answer", classes(&[1, 2, 3, 4, 5]), Facts { status: 0, ..fine() }, false),
            ("slow", slow(), took(100), true),
            ("not slow", slow(), took(99), false),
            ("failed", LogFilter::Failed, Facts { outcome: Outcome::Truncated, ..fine() }, true),
            ("refused", LogFilter::Failed, Facts { refusal: Some("no_route"), status: 404, ..fine() }, true),
            ("fine", LogFilter::Failed, fine(), false),
            ("a header", header("x-debug", None), fine(), true),
            ("its value", header("x-debug", Some("1")), fine(), true),
            ("another value", header("x-debug", Some("2")), fine(), false),
            ("another header", header("x-trace", None), fine(), false),
            ("not", LogFilter::Not(Box::new(header("x-trace", None))), fine(), true),
            ("any", LogFilter::Any(vec![slow(), header("x-debug", None)]), took(1), true),
            ("all", LogFilter::All(vec![slow(), header("x-debug", None)]), took(1), false),
            ("all of it", LogFilter::All(vec![header("x-debug", Some("1")), slow()]), took(200), true),
            ("sampled", LogFilter::SampledPpm(500_001), fine(), true),
            ("not sampled", LogFilter::SampledPpm(500_000), fine(), false),
        ] {
            let policy = Policy::new(&AccessLog { fields: vec![], filter: Some(filter) });
            let mut line = Line::default();
            policy.request(&mut line, &head);
            assert_eq!(policy.wants(&line, &facts, |below| below / 2), expect, "{name}");
        }
    }

    #[test]
    fn fields_are_told_in_their_order_and_cut() {
        let field = |name: &str, value| LogField { name: name.to_owned(), value };
        let policy = Policy::new(&AccessLog {
            fields: vec![
                field("cache", LogValue::ResponseHeader("x-cache".to_owned())),
                field("agent", LogValue::RequestHeader("user-agent".to_owned())),
                field("none", LogValue::RequestHeader("x-none".to_owned())),
                field("env", LogValue::Constant("pro\"d".to_owned())),
                field("backend", LogValue::Fact(LogFact::Backend)),
                field("late", LogValue::Fact(LogFact::QueueDelay)),
            ],
            filter: None,
        });
        let (mut request, mut response) = (Fields::new(), Fields::new());
        request.push("User-Agent", "é".repeat(200).as_bytes()).unwrap();
        response.push("X-Cache", b"hit").unwrap();
        response.push("X-Cache", b"\xff").unwrap();
        let mut line = Line::default();
        policy.request(&mut line, &request);
        policy.response(&mut line, &response);
        let facts = Facts { backend: Some("default/b".into()), queue_delay_us: 7, ..fine() };
        let mut out = vec![];
        let mut object = Object::open(&mut out);
        Custom { policy: &policy, line: &line, facts: &facts }.write(&mut object);
        object.close();
        let agent = "é".repeat(128);
        let expect = format!(
            "{{\"cache\":\"hit,\u{fffd}\",\"agent\":\"{agent}…\",\"env\":\"pro\\\"d\",\"backend\":\"default/b\",\"late\":7}}\n"
        );
        assert_eq!(String::from_utf8(out).unwrap(), expect);
        line.values.clear();
        assert!(line.values.of(0).is_none() && line.values.text.is_empty());
    }
}
