//! `/logging`: levels of the application log, shown and changed.
use super::Admin;
use super::request::{Reply, Request};
use crate::telemetry::log::{COMPONENTS, Level, Logger};

/// `/logging`.
pub(super) fn logging(admin: &Admin, request: &Request) -> Reply {
    let (usage, mut reply) = match change(admin.logger, &request.parameters) {
        Ok(()) => (String::new(), Reply::text("")),
        Err(reason) => (format!("error: {reason}\n\n{USAGE}"), Reply::bad_request("")),
    };
    let mut text = usage + "active loggers:\n";
    for (component, name) in COMPONENTS.iter().enumerate() {
        text.push_str(&format!("  {name}: {}\n", admin.logger.level(component)));
    }
    text.push('\n');
    reply.body = text.into();
    reply
}

fn change(logger: &Logger, parameters: &[(String, String)]) -> Result<(), &'static str> {
    let (name, value) = match parameters {
        [] => return Ok(()),
        [(name, value)] => (name.as_str(), value.as_str()),
        _ => return Err("invalid number of parameters"),
    };
    let changes = match name {
        "level" => {
            logger.set_all(level(value)?);
            return Ok(());
        }
        "group" => return Err("group parameter requires fine-grain logging to be enabled"),
        // All or nothing: the list is understood before anything is changed.
        "paths" => value.split(',').map(path).collect::<Result<Vec<_>, _>>()?,
        _ => vec![(component(name)?, level(value)?)],
    };
    changes.into_iter().for_each(|(component, level)| logger.set_level(component, level));
    Ok(())
}

fn path(text: &str) -> Result<(usize, Level), &'static str> {
    match text.split_once(':') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => Ok((component(name)?, level(value)?)),
        _ => Err("empty logger name or empty logger level"),
    }
}

fn component(name: &str) -> Result<usize, &'static str> {
    COMPONENTS.binary_search(&name).map_err(|_| "unknown logger name")
}

fn level(name: &str) -> Result<Level, &'static str> {
    Level::parse(name).ok_or("unknown logger level")
}

const USAGE: &str = "usage: /logging?<name>=<level> (change single level)
usage: /logging?paths=name1:level1,name2:level2,... (change multiple levels)
usage: /logging?level=<level> (change all levels)
levels: trace debug info warning error critical off 
";
