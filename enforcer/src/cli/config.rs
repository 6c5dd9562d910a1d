//! `--config FILE`: the options of `run` as a YAML mapping, with the names that they have on the
//! command line. What is given there counts most, then the environment, then the file.
//!
//! The options themselves are the one table that everything is made from: the parser, the keys of the
//! file, the variables, what `status` shows, and `enforcer/CONFIGURATION.md`.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
};

use clap::{Arg, ArgAction, ArgMatches, Command, parser::ValueSource};
use serde_json::json;
use serde_yaml::Value;

/// The subcommand that has options enough for a file.
const RUN: &str = "run";
/// The option that names the file.
const CONFIG: &str = "config";
const VARIABLE: &str = "ENFORCER_CONFIG";

/// What is wrong with a configuration file.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read configuration `{path}`")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("configuration `{path}` is no YAML mapping")]
    Yaml {
        path: PathBuf,
        #[source]
        source: serde_yaml::Error,
    },
    #[error("configuration `{path}`: there is no option `{key}`; those there are: {have}")]
    Unknown {
        path: PathBuf,
        key: String,
        have: String,
    },
    #[error("configuration `{path}`: `{key}` must be {wanted}")]
    Value {
        path: PathBuf,
        key: String,
        wanted: &'static str,
    },
}

/// The command line's parser, with what a file that it names has for defaults.
pub fn command(mut command: Command, arguments: &[OsString]) -> Result<Command, ConfigError> {
    if arguments.get(1).is_none_or(|word| word != RUN) {
        return Ok(command);
    }
    let Some(path) = named(arguments).or_else(|| std::env::var_os(VARIABLE).map(PathBuf::from))
    else {
        return Ok(command);
    };
    for (key, values) in read(&command, &path)? {
        // The parser wants texts that live as long as the process, which this one does: it is read
        // once.
        let values: Vec<&'static str> = values
            .into_iter()
            .map(|value| &*Box::leak(value.into_boxed_str()))
            .collect();
        command = command.mut_subcommand(RUN, |run| {
            let id = options(&run)
                .find(|arg| arg.get_long() == Some(key.as_str()))
                .map(|arg| arg.get_id().clone());
            match id {
                Some(id) => run.mut_arg(id, |arg| arg.required(false).default_values(values)),
                None => run,
            }
        });
    }
    Ok(command)
}

/// The options that an agent runs with, and where each was given.
pub fn effective(matches: &ArgMatches, command: &Command) -> BTreeMap<String, serde_json::Value> {
    let mut effective = BTreeMap::new();
    let (Some(matches), Some(run)) = (
        matches.subcommand_matches(RUN),
        command.find_subcommand(RUN),
    ) else {
        return effective;
    };
    for arg in options(run) {
        let id = arg.get_id().as_str();
        let values = matches.get_raw(id).into_iter().flatten();
        let values: Vec<_> = values.map(|value| value.to_string_lossy()).collect();
        let source = match matches.value_source(id) {
            Some(ValueSource::CommandLine) => "command line",
            Some(ValueSource::EnvVariable) => "environment",
            Some(_) => "file or default",
            None => continue,
        };
        let value = match &values[..] {
            [] => continue,
            [one] => json!(one),
            many => json!(many),
        };
        let value = json!({ "value": value, "from": source });
        effective.insert(arg.get_long().unwrap_or_default().into(), value);
    }
    effective
}

/// The options of `run`.
fn options(run: &Command) -> impl Iterator<Item = &Arg> {
    let counts = |arg: &&Arg| {
        arg.get_long()
            .is_some_and(|long| long != "help" && long != "version")
    };
    run.get_arguments().filter(counts)
}

/// The file that the arguments name.
fn named(arguments: &[OsString]) -> Option<PathBuf> {
    let mut arguments = arguments.iter().map(OsString::as_os_str);
    while let Some(argument) = arguments.next() {
        if argument == OsStr::new("--config") {
            return arguments.next().map(PathBuf::from);
        }
        let text = argument.to_string_lossy();
        if let Some(path) = text.strip_prefix("--config=") {
            return Some(path.into());
        }
    }
    None
}

fn read(command: &Command, path: &Path) -> Result<Vec<(String, Vec<String>)>, ConfigError> {
    let text = fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.into(),
        source,
    })?;
    // Not a map of ours, which would let a second value of a key replace the first.
    let mapping: serde_yaml::Mapping =
        serde_yaml::from_str(&text).map_err(|source| ConfigError::Yaml {
            path: path.into(),
            source,
        })?;
    let Some(run) = command.find_subcommand(RUN) else {
        return Ok(Vec::new());
    };
    let mut given = Vec::new();
    for (key, value) in mapping {
        let key = match key {
            Value::String(key) => key,
            other => format!("{other:?}"),
        };
        let option = options(run).find(|arg| arg.get_long() == Some(key.as_str()) && key != CONFIG);
        let Some(option) = option else {
            let have: Vec<&str> = options(run).flat_map(Arg::get_long).collect();
            return Err(ConfigError::Unknown {
                path: path.into(),
                key,
                have: have.join(", "),
            });
        };
        let values = values(option, value).map_err(|wanted| ConfigError::Value {
            path: path.into(),
            key: key.clone(),
            wanted,
        })?;
        given.push((key, values));
    }
    Ok(given)
}

/// The values of one key, or what they should have been.
fn values(option: &Arg, value: Value) -> Result<Vec<String>, &'static str> {
    let scalar = |value: Value| match value {
        Value::String(text) => Some(text),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    match (option.get_action(), value) {
        (ArgAction::SetTrue, Value::Bool(value)) => Ok(vec![value.to_string()]),
        (ArgAction::SetTrue, _) => Err("true or false"),
        (ArgAction::Append, Value::Sequence(list)) if !list.is_empty() => list
            .into_iter()
            .map(scalar)
            .collect::<Option<_>>()
            .ok_or("a list of texts"),
        (ArgAction::Append, value) => match scalar(value) {
            Some(one) => Ok(vec![one]),
            None => Err("a text, or a list of texts that is not empty"),
        },
        (_, value) => match scalar(value) {
            Some(one) => Ok(vec![one]),
            None => Err("a text or a number"),
        },
    }
}

/// The options as a table in Markdown.
#[cfg(test)]
fn table(run: &Command) -> String {
    let mut text = String::from(
        "| flag, key in the file | variable | default | meaning |\n|---|---|---|---|\n",
    );
    for arg in options(run) {
        let long = arg.get_long().unwrap_or_default();
        let values: Vec<String> = arg
            .get_possible_values()
            .iter()
            .map(|value| value.get_name().to_owned())
            .collect();
        let takes = match arg.get_action() {
            ArgAction::SetTrue => String::new(),
            _ if values.is_empty() => {
                let names = arg.get_value_names().unwrap_or_default();
                format!(" {}", names.join(" ").replace('|', "\\|"))
            }
            _ => format!(" {}", values.join("\\|")),
        };
        let variable = arg.get_env().map(|env| env.to_string_lossy().into_owned());
        let default = match arg.get_action() {
            ArgAction::SetTrue => "false".to_owned(),
            _ => arg
                .get_default_values()
                .iter()
                .map(|value| value.to_string_lossy().into_owned())
                .collect::<Vec<_>>()
                .join(", "),
        };
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        text += &format!(
            "| `--{long}{takes}` | `{}` | {default} | {} |\n",
            variable.unwrap_or_default(),
            help.replace('|', "\\|")
        );
    }
    text
}

#[cfg(test)]
mod tests;
