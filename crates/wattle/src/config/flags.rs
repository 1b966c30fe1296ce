use std::path::Path;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

use super::{
    Settings,
    form::Written,
    keys::{Key, keys},
};

/// The values of those keys that were given as flags.
#[derive(Debug, Clone, Default)]
pub(crate) struct KeyFlags(pub(crate) Vec<(&'static Key, Vec<String>)>);

impl Args for KeyFlags {
    fn augment_args(command: Command) -> Command {
        keys().iter().filter_map(flag).fold(command, Command::arg)
    }

    fn augment_args_for_update(command: Command) -> Command {
        KeyFlags::augment_args(command)
    }
}

impl FromArgMatches for KeyFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<KeyFlags, clap::Error> {
        let mut flags = KeyFlags::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        let given = keys().iter().filter(|key| key.flag.is_some()).filter_map(|key| {
            let values = matches.get_many::<String>(key.path)?;
            Some((key, values.cloned().collect()))
        });
        self.0 = given.collect();
        Ok(())
    }
}

/// Keeps keys out of the help of a command that takes them only as `wattle serve` does.
pub(crate) fn hide_keys(argument: Arg) -> Arg {
    let is_key = keys().iter().any(|key| argument.get_id() == key.path);
    argument.hide(is_key)
}

fn flag(key: &'static Key) -> Option<Arg> {
    let about = key.about.trim_end_matches('.');
    let default = key.default_text();
    let default = default.trim_matches('"');
    let help = match default {
        "[]" => about.to_owned(),
        default => format!("{about} [default: {default}]"),
    };
    let action = if key.takes_many { ArgAction::Append } else { ArgAction::Set };
    let parser = move |text: &str| -> Result<String, String> {
        let is_right = key.set(&mut Settings::defaults(), &Written::Bare(text.to_owned()), Path::new(""));
        if is_right { Ok(text.to_owned()) } else { Err(format!("it must be {}", key.expects)) }
    };
    let long_help = format!("{help}\n\n[env: {}]", key.variables().join(" or "));
    Some(
        Arg::new(key.path)
            .long(key.flag?)
            .value_name(key.placeholder)
            .help(help)
            .long_help(long_help)
            .action(action)
            .allow_negative_numbers(true)
            .value_parser(parser),
    )
}
