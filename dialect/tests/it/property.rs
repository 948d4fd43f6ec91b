//! Whatever is thrown at it: no panic, and every refusal says why.

use dialect::Environment;
use model::{CompileLimits, RouteTable};
use proptest::prelude::*;

use crate::set::{demo, file};

const SEEDS: [&str; 4] = [
    include_str!("golden/shop.yaml"),
    include_str!("golden/teams.yaml"),
    include_str!("golden/static.yaml"),
    include_str!("../../../examples/quickstart/route.yaml"),
];

/// A valid document after some accidents: letters removed, replaced and repeated, lines swapped and dropped.
fn mutated() -> impl Strategy<Value = String> {
    let accident = (0..6_u8, any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<char>());
    (0..SEEDS.len(), prop::collection::vec(accident, 1..8)).prop_map(|(seed, accidents)| {
        let mut text: Vec<char> = SEEDS[seed].chars().collect();
        for (kind, at, other, letter) in accidents {
            if text.is_empty() {
                break;
            }
            let (at, other) = (at.index(text.len()), other.index(text.len()));
            match kind {
                0 => drop(text.remove(at)),
                1 => text[at] = letter,
                2 => text.insert(at, letter),
                3 => text.swap(at, other),
                4 => drop(text.drain(at.min(other)..at.max(other).min(at.min(other) + 40))),
                _ => {
                    let piece: Vec<char> = text[at..text.len().min(at + 60)].to_vec();
                    text.splice(other..other, piece);
                }
            }
        }
        text.into_iter().collect()
    })
}

/// Parses and compiles; what is accepted makes a table.
fn check(text: &str) -> Result<(), TestCaseError> {
    match dialect::parse(&[file(text)]) {
        Ok(objects) => {
            for environment in [demo(), Environment::standalone("static".parse().unwrap())] {
                let compiled = dialect::compile(&objects, &environment);
                let table = RouteTable::compile(&compiled.config, &CompileLimits::default());
                prop_assert!(table.is_ok(), "{:#?}\n{}", table.err(), text);
            }
            for object in &objects {
                let again = dialect::parse_value(&object.source, object.json.clone());
                prop_assert_eq!(again.map(|again| again.spec), Ok(object.spec.clone()));
            }
        }
        Err(mistakes) => {
            prop_assert!(!mistakes.is_empty());
            for mistake in mistakes {
                prop_assert!(!mistake.problem.is_empty() && mistake.file == "objects.yaml", "{:?}", mistake);
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_text_is_parsed_or_refused(text in "[\\PC\n]{0,200}") {
        check(&text)?;
    }

    #[test]
    fn any_yaml_is_parsed_or_refused(text in "([a-z]{1,4}|[ \n:\\-\\[\\]{}\"'*&!|>#,?%@]|---\n|: |- |\n  ){0,60}") {
        check(&text)?;
    }

    #[test]
    fn mutated_documents_are_parsed_or_refused(text in mutated()) {
        check(&text)?;
    }
}
