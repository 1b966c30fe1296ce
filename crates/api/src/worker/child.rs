use std::{
    fs,
    io::{self, BufRead, Read, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use axum::Router;
use rustix::process::{Signal, getpid, kill_process};
use tokio::{net::UnixListener, runtime::Builder};
use tonic::{Request, Response, Status};
use wattle_engine::onnx::OnnxModel;
use wattle_meter::process_cpu_seconds;
use wattle_serve::{
    Instance,
    speaker::{LocalSpeaker, SpeakerSettings},
};

use super::{Answer, Loaded, Order, Task, speech};
use crate::grpc::{
    convert, path,
    proto::{
        self,
        grpc_inference_service_server::{GrpcInferenceService, GrpcInferenceServiceServer},
    },
};

/// The longest order that is read.
const MAX_ORDER_BYTES: u64 = 1 << 20;

/// Serves the model that the first line of `stdin` asks for, and tells `stdout` when it is ready or why it is not.
///
/// The process exits when `stdin` ends, for then the server has ended: call this from a process of its own.
pub fn serve_model(stdin: impl BufRead + Send + 'static, mut stdout: impl Write) -> ExitCode {
    let failed = match serve(stdin, &mut stdout) {
        Ok(()) => return ExitCode::SUCCESS,
        Err(reason) => Answer::Failed { reason },
    };
    // Whoever does not listen any more has no use for it either.
    let _ = tell(&mut stdout, &failed);
    ExitCode::FAILURE
}

fn serve(mut stdin: impl BufRead + Send + 'static, stdout: &mut impl Write) -> Result<(), String> {
    let told = |error: io::Error| error.to_string();
    let mut line = String::new();
    stdin.by_ref().take(MAX_ORDER_BYTES).read_line(&mut line).map_err(told)?;
    let order: Order = serde_json::from_str(&line).map_err(|error| {
        format!("this command is started by `wattle serve`, with an order on its standard input: {error}")
    })?;
    end_with(stdin, order.socket.clone()).map_err(told)?;
    let threads = match order.task {
        Task::Tensors { threads } => threads,
        Task::Language(settings) => return speak(&order.socket, &order.model, &settings, stdout),
    };
    let model = OnnxModel::load(&order.model, threads).map_err(|error| error.to_string())?;
    // Its calls come one after the other, so that one thread for them and one that computes are enough.
    let runtime = Builder::new_current_thread().enable_all().max_blocking_threads(1).build().map_err(told)?;
    runtime.block_on(async {
        let listener = UnixListener::bind(&order.socket).map_err(told)?;
        let service = OneModel { model: Arc::new(model), booked: Mutex::new(process_cpu_seconds()) };
        let ready = Answer::Ready(Loaded {
            resident_bytes: resident_bytes().map_err(told)?,
            cpu_seconds: process_cpu_seconds(),
        });
        tell(stdout, &ready).map_err(told)?;
        // The server bounds what it sends.
        let service = GrpcInferenceServiceServer::new(service).max_decoding_message_size(usize::MAX);
        axum::serve(listener, Router::new().route_service(&path(&service), service)).await.map_err(told)
    })
}

/// Answers in language.
fn speak(socket: &Path, model: &Path, settings: &SpeakerSettings, stdout: &mut impl Write) -> Result<(), String> {
    let told = |error: io::Error| error.to_string();
    let speaker = Arc::new(LocalSpeaker::load(model, settings)?);
    let (resident_bytes, cpu_seconds) = (speaker.resident_bytes(), speaker.load_cpu_seconds());
    let ready = Answer::Ready(Loaded { resident_bytes, cpu_seconds });
    // Texts are made tokens of beside what computes.
    let runtime = Builder::new_current_thread().enable_all().max_blocking_threads(4).build().map_err(told)?;
    runtime
        .block_on(speech::answer(socket, speaker, || {
            // Whoever does not listen any more has no use for it either.
            let _ = tell(stdout, &ready);
        }))
        .map_err(told)
}

/// The one model of this process.
struct OneModel {
    model: Arc<OnnxModel>,
    /// The processor time that was booked on calls, and on loading.
    booked: Mutex<f64>,
}

#[tonic::async_trait]
impl GrpcInferenceService for OneModel {
    async fn server_live(
        &self,
        _: Request<proto::ServerLiveRequest>,
    ) -> Result<Response<proto::ServerLiveResponse>, Status> {
        Ok(Response::new(proto::ServerLiveResponse { live: true }))
    }

    async fn server_ready(
        &self,
        _: Request<proto::ServerReadyRequest>,
    ) -> Result<Response<proto::ServerReadyResponse>, Status> {
        Ok(Response::new(proto::ServerReadyResponse { ready: true }))
    }

    async fn model_infer(
        &self,
        request: Request<proto::ModelInferRequest>,
    ) -> Result<Response<proto::ModelInferResponse>, Status> {
        let request = request.into_inner();
        let inputs = convert::inputs(request.inputs, request.raw_input_contents)?;
        let model = Arc::clone(&self.model);
        let computed = tokio::task::spawn_blocking(move || model.run_in_order(&inputs)).await;
        let outputs = computed.map_err(|error| Status::internal(error.to_string()))?.map_err(|error| match error {
            wattle_engine::Error::InvalidInput(text) => Status::invalid_argument(text),
            other => Status::internal(other.to_string()),
        })?;
        let mut response = proto::ModelInferResponse::default();
        convert::add_outputs(&mut response, outputs);
        convert::add_cpu_seconds(&mut response, self.take_cpu_seconds());
        Ok(Response::new(response))
    }
}

impl OneModel {
    /// The processor time since this was last asked. All that the process does it does for its calls: to read and write
    /// them as well as to compute.
    fn take_cpu_seconds(&self) -> f64 {
        let mut booked = self.booked.lock().unwrap_or_else(PoisonError::into_inner);
        let now = process_cpu_seconds();
        (now - std::mem::replace(&mut *booked, now)).max(0.0)
    }
}

/// Ends the process with its server, whatever it does.
fn end_with(mut stdin: impl Read + Send + 'static, socket: PathBuf) -> io::Result<()> {
    thread::Builder::new().name("watch".into()).spawn(move || {
        // Nothing more is expected; what comes nevertheless is passed over.
        let _ = io::copy(&mut stdin, &mut io::sink());
        let _ = fs::remove_file(socket);
        // At once: to leave in order would wait for threads that compute.
        let _ = kill_process(getpid(), Signal::KILL);
    })?;
    Ok(())
}

fn tell(stdout: &mut impl Write, answer: &Answer) -> io::Result<()> {
    serde_json::to_writer(&mut *stdout, answer)?;
    stdout.write_all(b"\n")?;
    stdout.flush()
}

/// What this process takes in memory, of what it shares with others its part.
fn resident_bytes() -> io::Result<u64> {
    let rollup = fs::read_to_string("/proc/self/smaps_rollup")?;
    let kilobytes = rollup.lines().find_map(|line| line.strip_prefix("Pss:")?.trim().strip_suffix(" kB")?.parse().ok());
    let kilobytes: u64 = kilobytes.ok_or_else(|| io::Error::other("/proc/self/smaps_rollup has no Pss"))?;
    Ok(kilobytes << 10)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_a_process_takes_grows_with_what_it_holds() {
        let before = resident_bytes().unwrap();
        let block = std::hint::black_box(vec![1_u8; 64 << 20]);
        assert!(resident_bytes().unwrap() >= before + (60 << 20));
        drop(block);
    }

    #[test]
    fn an_order_that_is_none_is_told() {
        let mut said = Vec::new();
        serve_model(io::Cursor::new("{}\n"), &mut said);
        let said = String::from_utf8(said).unwrap();
        assert!(said.starts_with(r#"{"failed":{"reason":"this command is started by `wattle serve`"#), "{said}");
    }
}
