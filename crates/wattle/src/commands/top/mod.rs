//! `wattle top`: a live view of a server, made of what it tells at `/metrics`.

mod figures;
mod frame;
mod scrape;
mod screen;

use std::{
    io::{self, IsTerminal},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail};
use reqwest::Method;
use serde_json::json;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{MissedTickBehavior, interval, sleep},
};

use self::{
    figures::Figures,
    frame::{HEAD_LINE, Shown, View, frame, keys},
    scrape::Scrape,
    screen::{Screen, Wish},
};
use super::Context;
use crate::{
    client::Client,
    flags::{OutputFormat, TopFlags, TopOrder},
    output::print_line,
};

/// A server that takes longer for its metrics is taken to be away.
const PATIENCE: Duration = Duration::from_secs(5);
/// Columns of a frame that goes into a file or a pipe.
const FILE_WIDTH: usize = 120;
/// Its lines: as many as there are.
const ENDLESS: usize = usize::MAX / 2;

pub(crate) async fn run(context: &Context, flags: TopFlags) -> Result<()> {
    match context.output {
        _ if flags.once => once(context, &flags).await,
        OutputFormat::Json => stream(&context.client, &flags).await,
        OutputFormat::Table if io::stdout().is_terminal() => watch(&context.client, &flags).await,
        OutputFormat::Table => {
            bail!("this is no terminal: use --once for one frame, or -o json for a line each interval")
        }
    }
}

/// What is known of a server while it is watched.
struct Watched<'a> {
    client: &'a Client,
    last: Option<Scrape>,
    /// The figures of the last interval, or why there are none.
    now: Option<Result<Figures>>,
}

impl<'a> Watched<'a> {
    fn new(client: &'a Client) -> Watched<'a> {
        Watched { client, last: None, now: None }
    }

    /// Takes another look.
    async fn look(&mut self) {
        match look(self.client).await {
            Ok(scrape) => {
                let figures = self.last.as_ref().map(|last| Ok(Figures::between(last, &scrape, now_seconds())));
                self.last = Some(scrape);
                self.now = figures;
            }
            Err(error) => {
                // What it tells when it is back is no continuation of what it told before.
                self.last = None;
                self.now = Some(Err(error));
            }
        }
    }

    /// Two looks, and what happened between them.
    async fn figures(mut self, between: Duration) -> Result<Figures> {
        self.look().await;
        if self.last.is_some() {
            sleep(between).await;
            self.look().await;
        }
        self.now.unwrap_or_else(|| bail!("the server was restarted in between: try again"))
    }
}

async fn once(context: &Context, flags: &TopFlags) -> Result<()> {
    let mut figures = Watched::new(&context.client).figures(flags.between()).await?;
    figures.sort(flags.sort);
    if context.output == OutputFormat::Json {
        return Ok(print_line(&serde_json::to_string(&figures)?)?);
    }
    let width = if io::stdout().is_terminal() { Screen::size().0 } else { FILE_WIDTH };
    let view = View { url: context.client.url(), order: flags.sort, paused: false, width, height: ENDLESS };
    frame(&Shown::Figures(&figures), &view).iter().try_for_each(|line| print_line(line))?;
    Ok(())
}

/// A line of JSON for each interval, until the reader has gone or somebody ends it.
async fn stream(client: &Client, flags: &TopFlags) -> Result<()> {
    let mut watched = Watched::new(client);
    let mut ticks = interval(flags.between());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        watched.look().await;
        let line = match &mut watched.now {
            None => continue,
            Some(Ok(figures)) => {
                figures.sort(flags.sort);
                serde_json::to_string(figures)?
            }
            Some(Err(error)) => json!({ "error": format!("{error:#}") }).to_string(),
        };
        if !print_or_gone(&line)? {
            return Ok(());
        }
    }
}

/// The live view, until somebody ends it.
async fn watch(client: &Client, flags: &TopFlags) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut screen = Screen::open().context("the terminal cannot be used: try --once")?;
    let mut watched = Watched::new(client);
    let (mut order, mut paused) = (flags.sort, false);
    let mut ticks = interval(flags.between());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick(), if !paused => watched.look().await,
            wish = screen.wishes.recv() => match wish {
                None | Some(Wish::Quit) => return Ok(()),
                Some(Wish::Sort) => order = order.next(),
                Some(Wish::Pause) => paused = !paused,
                Some(Wish::Redraw) => {}
            },
            _ = terminate.recv() => return Ok(()),
        }
        let (width, height) = Screen::size();
        let view = View { url: client.url(), order, paused, width, height };
        let away;
        let shown = match &mut watched.now {
            None => Shown::First,
            Some(Ok(figures)) => {
                figures.sort(order);
                Shown::Figures(figures)
            }
            Some(Err(error)) => {
                away = format!("{error:#}");
                Shown::Away(&away)
            }
        };
        screen.draw(&frame(&shown, &view), HEAD_LINE, &keys(&view))?;
    }
}

async fn look(client: &Client) -> Result<Scrape> {
    let request = client.request(Method::GET, "/metrics").timeout(PATIENCE);
    let text = client.send(request).await?.text().await.context("the connection to the server was lost")?;
    Ok(Scrape::parse(&text, Instant::now()))
}

fn now_seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// Prints a line; says whether there is still a reader.
fn print_or_gone(line: &str) -> io::Result<bool> {
    use io::Write;
    match writeln!(io::stdout().lock(), "{line}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        result => result.map(|()| true),
    }
}

impl TopFlags {
    fn between(&self) -> Duration {
        Duration::from_secs_f64(self.interval)
    }
}

impl TopOrder {
    /// The one that comes after this.
    fn next(self) -> TopOrder {
        match self {
            TopOrder::Calls => TopOrder::Latency,
            TopOrder::Latency => TopOrder::Memory,
            TopOrder::Memory => TopOrder::Power,
            TopOrder::Power => TopOrder::Name,
            TopOrder::Name => TopOrder::Calls,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            TopOrder::Calls => "calls",
            TopOrder::Latency => "latency",
            TopOrder::Memory => "memory",
            TopOrder::Power => "power",
            TopOrder::Name => "name",
        }
    }
}
