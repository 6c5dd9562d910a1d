//! What is exactly a bundle is read, and nothing else is.

use std::sync::Arc;

use super::*;
use crate::{
    cluster::Pod,
    ir::{Atom, Pattern},
};

fn program() -> Program {
    Program {
        atoms: vec![Atom::Method(Pattern::Exact("GET".into()))],
        ..Program::default()
    }
}

fn inventory() -> Inventory {
    let pod = Pod {
        namespace: "a".into(),
        name: "x".into(),
        ips: vec![std::net::Ipv4Addr::LOCALHOST.into()],
        ..Pod::default()
    };
    Inventory {
        pods: vec![Arc::new(pod)],
        ..Inventory::default()
    }
}

#[test]
fn a_bundle_round_trips_and_is_reproducible() {
    let bytes = write(&program(), &inventory(), 7).unwrap();
    assert_eq!(
        bytes,
        write(&program(), &inventory(), 7).unwrap(),
        "same input, same bytes"
    );
    let bundle = read(&bytes).unwrap();
    assert_eq!((bundle.generation, &bundle.program), (7, &program()));
    assert_eq!(read_inventory(&bytes), Ok(inventory()));
}

#[test]
fn whatever_is_not_exactly_a_bundle_is_refused() {
    let bytes = write(&program(), &inventory(), 0).unwrap();
    assert_eq!(read(b"#!/bin/sh"), Err(BundleError::Foreign));
    assert_eq!(read(b""), Err(BundleError::Foreign));
    for length in MAGIC.len()..bytes.len() {
        assert!(
            matches!(read(&bytes[..length]), Err(BundleError::Truncated { .. })),
            "cut to {length} bytes"
        );
    }
    let mut longer = bytes.clone();
    longer.push(0);
    assert_eq!(read(&longer), Err(BundleError::Trailing(1)));
    for (at, error) in [
        (8, "format"),
        (12, "ABI"),
        (80, "checksum"),
        (100, "checksum"),
        (50, "checksum"),
    ] {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        let message = read(&damaged).unwrap_err().to_string();
        assert!(message.contains(error), "byte {at}: {message}");
    }
}

/// A bundle with one rule that asks these atoms.
fn asking(any: &[u32]) -> Vec<u8> {
    let mut program = program();
    program.atoms.push(Atom::DestinationPort(80));
    program.policies.push(Arc::new(crate::ir::Policy {
        namespace: "a".into(),
        name: "b".into(),
        file: String::new(),
        lines: vec![1],
        action: crate::ir::Action::Deny,
        dry_run: false,
        attachment: crate::ir::Attachment::default(),
        rules: vec![crate::ir::Rule {
            clauses: vec![crate::ir::Clause {
                any: vec![crate::ir::Alternative {
                    all: vec![crate::ir::Literal {
                        any: any.iter().map(|id| crate::ir::AtomId(*id)).collect(),
                        negated: false,
                    }],
                }],
            }],
        }],
    }));
    write(&program, &inventory(), 0).expect("it is small")
}

#[test]
fn numbers_that_lead_nowhere_are_refused() {
    assert_eq!(
        read(&asking(&[9])),
        Err(BundleError::Dangling {
            what: "atom",
            number: 9
        })
    );
}

#[test]
fn values_that_would_be_evaluated_wrongly_are_refused() {
    assert!(read(&asking(&[0])).is_ok());
    for (any, why) in [
        (&[][..], "no value"),
        (&[0, 0], "a value twice"),
        (&[1, 0], "not sorted"),
        (&[0, 1], "a method and a port in one field"),
    ] {
        let answer = read(&asking(any));
        assert!(
            matches!(answer, Err(BundleError::Payload(_))),
            "{why}: {answer:?}"
        );
    }
}
