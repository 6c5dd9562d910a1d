//! Which engine judges, and what it means that two must agree.

use anyhow::Context;
use policyc::{
    cluster::Cluster,
    diagnostic, engine,
    ir::Program,
    options::Options,
    oracle,
    read::Loaded,
    request::{Judgement, Request},
    resolve,
};

use super::EngineChoice;

/// The engines that were asked for, ready to judge.
pub struct Engines<'a> {
    cluster: &'a Cluster,
    options: &'a Options,
    chosen: Chosen,
}

enum Chosen {
    Oracle,
    Tables(Box<Program>),
    Both(Box<Program>),
}

impl<'a> Engines<'a> {
    /// Compiles what has to be compiled.
    pub fn new(
        choice: EngineChoice,
        loaded: &'a Loaded,
        options: &'a Options,
    ) -> anyhow::Result<Self> {
        let cluster = &loaded.cluster;
        // Verdicts name policies and rules; where these were written is not asked.
        let nowhere = |_: &diagnostic::At| (String::new(), 0);
        let program = || {
            resolve::resolve(cluster, options.catch_all_deny, &options.jwks, &nowhere)
                .map(Box::new)
                .context("the policies cannot be compiled")
        };
        Ok(Self {
            cluster,
            options,
            chosen: match choice {
                EngineChoice::Oracle => Chosen::Oracle,
                EngineChoice::Tables => Chosen::Tables(program()?),
                EngineChoice::Both => Chosen::Both(program()?),
            },
        })
    }

    /// Judges requests, in order; an error says why one cannot be judged.
    pub fn judge(&self, requests: &[Request]) -> Vec<Result<Judgement, String>> {
        match &self.chosen {
            Chosen::Oracle => self.oracle(requests),
            Chosen::Tables(program) => self.tables(program, requests),
            Chosen::Both(program) => {
                let oracle = self.oracle(requests);
                let tables = self.tables(program, requests);
                tables.into_iter().zip(oracle).map(agreed).collect()
            }
        }
    }

    fn oracle(&self, requests: &[Request]) -> Vec<Result<Judgement, String>> {
        requests
            .iter()
            .map(|request| {
                oracle::evaluate(self.cluster, request, self.options).map_err(|why| why.to_string())
            })
            .collect()
    }

    fn tables(&self, program: &Program, requests: &[Request]) -> Vec<Result<Judgement, String>> {
        engine::judge(program, self.cluster, requests, self.options.now)
    }
}

type Answer = Result<Judgement, String>;

/// The answer on which both engines agree. They need not agree on the words in which they say that a
/// request cannot be judged.
fn agreed((tables, oracle): (Answer, Answer)) -> Answer {
    match (tables, oracle) {
        (Ok(tables), Ok(oracle)) if tables == oracle => Ok(tables),
        (Err(_), Err(why)) => Err(why),
        (tables, oracle) => Err(format!(
            "the engines differ: the tables say {}, the oracle says {}",
            said(&tables),
            said(&oracle)
        )),
    }
}

fn said(answer: &Answer) -> String {
    match answer {
        Ok(judgement) => {
            serde_json::to_string(judgement).unwrap_or_else(|_| format!("{judgement:?}"))
        }
        Err(why) => format!("that it cannot be judged: {why}"),
    }
}
