//! `enforcer status --all-nodes`: one row a node, and whether all is well.

use std::{path::PathBuf, process::ExitCode, str::FromStr};

use serde::Serialize;

use super::{
    super::{Failure, Format},
    Heard, aside, ask_all, command,
};
use crate::fleet::{
    Fleet,
    rows::{self, Row, Shown, Status, Wanted},
};

/// The bundle that every node should enforce: its generation, or a file that is the bundle.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WantedBundle {
    Generation(u64),
    File(PathBuf),
}

impl FromStr for WantedBundle {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(text
            .parse()
            .map_or_else(|_| Self::File(text.into()), Self::Generation))
    }
}

impl WantedBundle {
    fn read(&self) -> Result<Wanted, Failure> {
        match self {
            Self::Generation(generation) => Ok(Wanted {
                generation: *generation,
                hash: None,
            }),
            Self::File(path) => {
                let failed = |why: String| format!("bundle `{}`: {why}", path.display());
                let bytes = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
                let bundle = policyc::bundle::read(&bytes);
                let bundle = bundle.map_err(|error| failed(crate::chain(&error)))?;
                Ok(Wanted {
                    generation: bundle.generation,
                    hash: Some(bundle.hash),
                })
            }
        }
    }
}

/// All rows, for programs.
#[derive(Debug, Serialize)]
struct Fleetwide<'a> {
    wanted: Option<Wanted>,
    nodes: &'a [Row],
    /// Why nobody can say which nodes have no agent.
    unlisted: Option<&'a str>,
    /// Nodes with which something is wrong.
    wrong: usize,
}

/// Asks all nodes for their status. Exit status 1 where something is wrong.
pub async fn run(
    fleet: Fleet,
    wanted: Option<&WantedBundle>,
    format: Format,
) -> Result<ExitCode, Failure> {
    let wanted = wanted.map(WantedBundle::read).transpose()?;
    let nodes = fleet.nodes().await?;
    let heard = ask_all(&fleet, &nodes, &command(&["status", "--format", "json"])).await;
    let now = policyc::clock::clock()?;
    let mut rows: Vec<Row> = heard.into_iter().map(|heard| row(heard, now)).collect();
    let wanted = wanted.or_else(|| rows::newest(&rows));
    if let Some(wanted) = &wanted {
        rows.iter_mut().for_each(|row| row.compare(wanted));
    }
    let wrong = rows.iter().filter(|row| !row.wrong.is_empty()).count();
    let unlisted = nodes.unlisted.as_deref();
    match format {
        Format::Json => {
            let all = Fleetwide {
                wanted,
                nodes: &rows,
                unlisted,
                wrong,
            };
            println!("{}", serde_json::to_string_pretty(&all)?);
        }
        Format::Human => {
            print!("{}", Shown(&rows));
            if let Some(unlisted) = unlisted {
                println!("WRONG {unlisted}");
            }
            println!("{} nodes, something is wrong with {wrong}", rows.len());
        }
    }
    let well = wrong == 0 && unlisted.is_none() && !rows.is_empty();
    Ok(match well {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

fn row(heard: Heard, now: u64) -> Row {
    let Heard { node, agent, said } = heard;
    let said = match said {
        Ok(said) if said.code == 0 => said,
        Ok(said) => return Row::silent(&node, agent, aside(&said)),
        Err(why) => return Row::silent(&node, agent, why),
    };
    match serde_json::from_str::<Status>(&said.out) {
        Ok(status) => Row::of(&node, &agent.unwrap_or_default(), status, now),
        Err(error) => Row::silent(
            &node,
            agent,
            format!("its status cannot be read, is it of another version? {error}"),
        ),
    }
}
