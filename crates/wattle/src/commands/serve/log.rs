//! The server's log: lines on the standard error, and those about a deployment kept for `wattle logs`.

use std::{
    fmt::{Debug, Write as _},
    io::{self, IsTerminal},
    sync::Arc,
};

use anyhow::Result;
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    EnvFilter, Layer,
    layer::{Context, SubscriberExt},
    util::SubscriberInitExt,
};
use wattle_core::Name;
use wattle_serve::Logs;

use crate::config::{Config, LogFormat};

/// Begins to write what happens.
pub(super) fn start(config: &Config) -> Result<Arc<Logs>> {
    let logs = Arc::<Logs>::default();
    let info = tracing_subscriber::filter::LevelFilter::INFO.into();
    let filter = EnvFilter::builder().with_default_directive(info).parse(&config.log_filter)?;
    // Colours are for a terminal, not for the file that the log may go to.
    let lines = tracing_subscriber::fmt::layer().with_ansi(io::stderr().is_terminal()).with_writer(io::stderr);
    let log = tracing_subscriber::registry().with(filter).with(Keep(Arc::clone(&logs)));
    match config.log_format {
        LogFormat::Text => log.with(lines).init(),
        LogFormat::Json => log.with(lines.json()).init(),
    }
    Ok(logs)
}

/// Keeps what is said of a deployment.
struct Keep(Arc<Logs>);

/// An event's fields, as words.
#[derive(Default)]
struct Said {
    deployment: Option<String>,
    message: String,
    others: String,
}

impl<S: Subscriber> Layer<S> for Keep {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut said = Said::default();
        event.record(&mut said);
        let Some(Ok(deployment)) = said.deployment.map(|name| name.parse::<Name>()) else { return };
        let text = format!("{} {}{}", event.metadata().level(), said.message, said.others);
        self.0.add(&deployment, "server", &text);
    }
}

impl Visit for Said {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        match field.name() {
            "deployment" => self.deployment = Some(format!("{value:?}")),
            "message" => self.message = format!("{value:?}"),
            // To write into a text never fails.
            name => _ = write!(self.others, " {name}={value:?}"),
        }
    }
}
