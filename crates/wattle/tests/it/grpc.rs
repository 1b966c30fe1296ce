//! The Open Inference Protocol over gRPC, on the port of REST.

use serde_json::json;
use tonic::{Code, Request, codec::CompressionEncoding, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use wattle_api::grpc::proto::{
    self, InferParameter, InferTensorContents, ModelInferRequest, ModelInferResponse,
    grpc_inference_service_client::GrpcInferenceServiceClient,
    infer_parameter::ParameterChoice,
    model_infer_request::{InferInputTensor, InferRequestedOutputTensor},
};

use crate::support::{PATIENCE, Server, post};

pub(crate) type Client = GrpcInferenceServiceClient<Channel>;

/// Runs a test's calls; all of them end within its patience.
pub(crate) fn calls<T>(server: &Server, calls: impl AsyncFnOnce(Channel) -> T) -> T {
    calls_at(&server.url, calls)
}

/// The same of whatever answers there.
pub(crate) fn calls_at<T>(url: &str, calls: impl AsyncFnOnce(Channel) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let channel = Channel::from_shared(url.to_owned()).unwrap().connect().await.unwrap();
        tokio::time::timeout(PATIENCE, calls(channel)).await.unwrap()
    })
}

/// A call of the founding model with its one input as typed contents.
pub(crate) fn founding(id: &str, values: &[f64]) -> ModelInferRequest {
    let contents = InferTensorContents { fp64_contents: values.to_vec(), ..Default::default() };
    let input = tensor("x", "FP64", &[values.len() as i64, 1], Some(contents));
    ModelInferRequest { model_name: "founding".into(), id: id.into(), inputs: vec![input], ..Default::default() }
}

/// Calls the founding model, which answers.
pub(crate) async fn founding_is_answered(channel: Channel) {
    let response = Client::new(channel).model_infer(founding("1", &[1.0, 2.0])).await.unwrap().into_inner();
    assert_eq!(numbers(&response, "y_pred"), [3.0, 5.0]);
}

/// The same with raw bytes.
fn founding_raw(values: &[f64]) -> ModelInferRequest {
    let input = tensor("x", "FP64", &[values.len() as i64, 1], None);
    let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    ModelInferRequest {
        model_name: "founding".into(),
        inputs: vec![input],
        raw_input_contents: vec![raw.into()],
        ..Default::default()
    }
}

fn tensor(name: &str, datatype: &str, shape: &[i64], contents: Option<InferTensorContents>) -> InferInputTensor {
    InferInputTensor {
        name: name.into(),
        datatype: datatype.into(),
        shape: shape.to_vec(),
        contents,
        ..Default::default()
    }
}

/// The numbers of an output that has them raw.
fn numbers(response: &ModelInferResponse, name: &str) -> Vec<f64> {
    let index = response.outputs.iter().position(|output| output.name == name).unwrap();
    assert_eq!(response.outputs[index].datatype, "FP64");
    let raw = &response.raw_output_contents[index];
    raw.chunks(8).map(|bytes| f64::from_le_bytes(bytes.try_into().unwrap())).collect()
}

fn text<'a>(response: &'a ModelInferResponse, parameter: &str) -> &'a str {
    match &response.parameters[parameter].parameter_choice {
        Some(ParameterChoice::StringParam(text)) => text,
        other => panic!("{parameter}: {other:?}"),
    }
}

#[test]
fn the_server_and_its_models_are_described() {
    let server = Server::start_furnished();
    calls(&server, async |channel| {
        let mut client = Client::new(channel);
        assert!(client.server_live(proto::ServerLiveRequest {}).await.unwrap().into_inner().live);
        assert!(client.server_ready(proto::ServerReadyRequest {}).await.unwrap().into_inner().ready);
        let metadata = client.server_metadata(proto::ServerMetadataRequest {}).await.unwrap().into_inner();
        assert_eq!(metadata.name, "wattle");
        assert!(metadata.extensions.contains(&"statistics".to_owned()));

        let name = || "penguins".to_owned();
        let request = proto::ModelMetadataRequest { name: name(), version: "1".into() };
        let metadata = client.model_metadata(request).await.unwrap().into_inner();
        assert_eq!((metadata.name.as_str(), &metadata.versions[..]), ("penguins", &["1".to_owned()][..]));
        let inputs: Vec<_> = metadata.inputs.iter().map(|input| (&*input.name, &*input.datatype)).collect();
        assert_eq!(inputs, [("island", "BYTES"), ("body_mass_g", "FP64"), ("sex", "BYTES")]);
        assert_eq!(metadata.outputs[1].shape, [-1, 3]);

        let request = proto::ModelConfigRequest { name: name(), version: String::new() };
        let config = client.model_config(request).await.unwrap().into_inner().config.unwrap();
        assert_eq!((config.name.as_str(), config.backend.as_str()), ("penguins", "onnxruntime"));
        assert_eq!((config.max_batch_size, &config.output[1].dims[..]), (32, &[3][..]));
        assert_eq!(config.input[0].data_type(), proto::DataType::TypeString);
        assert_eq!(config.output[1].data_type(), proto::DataType::TypeFp64);

        let ready = |name: &str, version: &str| proto::ModelReadyRequest { name: name.into(), version: version.into() };
        for (name, version, expected) in [("founding", "", true), ("founding", "2", false), ("nobody", "", false)] {
            let answer = client.model_ready(ready(name, version)).await.unwrap().into_inner();
            assert_eq!(answer.ready, expected, "{name} {version}");
        }

        let request = proto::RepositoryIndexRequest { ready: true, ..Default::default() };
        let index = client.repository_index(request).await.unwrap().into_inner().models;
        let index: Vec<_> = index.iter().map(|model| (&*model.name, &*model.version, &*model.state)).collect();
        assert_eq!(index, [("diabetes", "1", "READY"), ("founding", "1", "READY"), ("penguins", "1", "READY")]);
    });
}

#[test]
fn models_are_loaded_and_unloaded() {
    let server = Server::start_furnished();
    let loaded = || server.json(&["ps"])[1]["loaded"].as_bool().unwrap();
    calls(&server, async |channel| {
        let mut client = Client::new(channel);
        let load = |name: &str| proto::RepositoryModelLoadRequest { model_name: name.into(), ..Default::default() };
        let unload = |name: &str| proto::RepositoryModelUnloadRequest { model_name: name.into(), ..Default::default() };
        client.repository_model_load(load("founding")).await.unwrap();
        assert!(loaded());
        client.repository_model_unload(unload("founding")).await.unwrap();
        assert!(!loaded());
        client.model_infer(founding("", &[1.0])).await.unwrap();
        assert!(loaded());
        assert_eq!(client.repository_model_load(load("nobody")).await.unwrap_err().code(), Code::NotFound);
        assert_eq!(client.repository_model_unload(unload("nobody")).await.unwrap_err().code(), Code::NotFound);
        let config = proto::ModelRepositoryParameter {
            parameter_choice: Some(proto::model_repository_parameter::ParameterChoice::StringParam("{}".into())),
        };
        let mut with_config = load("founding");
        with_config.parameters.insert("config".into(), config);
        assert_eq!(client.repository_model_load(with_config).await.unwrap_err().code(), Code::Unimplemented);
    });
}

#[test]
fn statistics_count_calls_and_rows() {
    let server = Server::start_furnished();
    calls(&server, async |channel| {
        let mut client = Client::new(channel);
        client.model_infer(founding("", &[1.0, 2.0])).await.unwrap();
        client.model_infer(founding("", &[1.0])).await.unwrap();
        let request = proto::ModelStatisticsRequest { name: "founding".into(), version: String::new() };
        let statistics = client.model_statistics(request).await.unwrap().into_inner().model_stats;
        let [one] = statistics.as_slice() else { panic!("{statistics:?}") };
        let times = one.inference_stats.as_ref().unwrap();
        assert_eq!(times.success.unwrap().count, 2);
        assert_eq!(times.fail.unwrap().count, 0);
        assert!(times.compute_infer.unwrap().ns > 0);
        assert_eq!((one.name.as_str(), one.version.as_str(), one.inference_count), ("founding", "1", 3));
        let all = client.model_statistics(proto::ModelStatisticsRequest::default()).await.unwrap().into_inner();
        assert_eq!(all.model_stats.len(), 3);
    });
}

#[test]
fn typed_and_raw_contents_are_the_same_call() {
    let server = Server::start_furnished();
    calls(&server, async |channel| {
        let mut client = Client::new(channel);
        let typed = client.model_infer(founding("q-7", &[1.0, 2.0])).await.unwrap().into_inner();
        assert_eq!(
            (typed.model_name.as_str(), typed.model_version.as_str(), typed.id.as_str()),
            ("founding", "1", "q-7")
        );
        assert_eq!(typed.outputs[0].shape, [2, 1]);
        assert_eq!(numbers(&typed, "y_pred"), [3.0, 5.0]);
        let raw = client.model_infer(founding_raw(&[1.0, 2.0])).await.unwrap().into_inner();
        assert_eq!(numbers(&raw, "y_pred"), [3.0, 5.0]);
    });
}

#[test]
fn texts_go_in_and_come_out() {
    let server = Server::start_furnished();
    let texts = |text: &str| InferTensorContents { bytes_contents: vec![text.into()], ..Default::default() };
    let mass = InferTensorContents { fp64_contents: vec![5700.0], ..Default::default() };
    let typed = vec![
        tensor("island", "BYTES", &[1, 1], Some(texts("Biscoe"))),
        tensor("body_mass_g", "FP64", &[1, 1], Some(mass)),
        tensor("sex", "BYTES", &[1, 1], Some(texts("male"))),
    ];
    let raw = typed.iter().map(|input| InferInputTensor { contents: None, ..input.clone() }).collect();
    let length_prefixed = |text: &str| [&(text.len() as u32).to_le_bytes(), text.as_bytes()].concat();
    let bytes = [length_prefixed("Biscoe"), 5700.0_f64.to_le_bytes().to_vec(), length_prefixed("male")];
    let request = |inputs| ModelInferRequest { model_name: "penguins".into(), inputs, ..Default::default() };
    let typed = request(typed);
    let raw = ModelInferRequest { raw_input_contents: bytes.map(Into::into).to_vec(), ..request(raw) };
    let wanted = InferRequestedOutputTensor { name: "probabilities".into(), ..Default::default() };
    let one = ModelInferRequest { outputs: vec![wanted], ..typed.clone() };
    calls(&server, async |channel| {
        let mut client = Client::new(channel);
        for request in [typed, raw] {
            let answer = client.model_infer(request).await.unwrap().into_inner();
            let names: Vec<&str> = answer.outputs.iter().map(|output| output.name.as_str()).collect();
            assert_eq!(names, ["y_pred", "probabilities"]);
            assert_eq!(&answer.raw_output_contents[0][..], length_prefixed("Gentoo"));
            assert_eq!(numbers(&answer, "probabilities").len(), 3);
        }
        let answer = client.model_infer(one).await.unwrap().into_inner();
        assert_eq!((answer.outputs.len(), answer.raw_output_contents.len()), (1, 1));
        assert_eq!(numbers(&answer, "probabilities").len(), 3);
    });
}

#[test]
fn an_answer_tells_its_cost() {
    let server = Server::start_furnished();
    calls(&server, async |channel| {
        let answer = Client::new(channel).model_infer(founding("", &[1.0])).await.unwrap().into_inner();
        assert_eq!(text(&answer, "x-wattle-model"), "founding:1");
        let number = |name: &str| text(&answer, name).parse::<f64>().unwrap();
        assert!(number("x-wattle-cpu-seconds") > 0.0);
        assert!(number("x-wattle-energy-joules-low") <= number("x-wattle-energy-joules-high"));
    });
}

#[test]
fn what_is_wrong_is_told_with_tritons_codes() {
    let server = Server::start_furnished();
    let change = |change: &dyn Fn(&mut ModelInferRequest)| {
        let mut request = founding("", &[1.0]);
        change(&mut request);
        request
    };
    let region = InferParameter { parameter_choice: Some(ParameterChoice::StringParam("region".into())) };
    let wrong = [
        (change(&|request| request.model_name = "foundling".into()), Code::NotFound, "did you mean founding?"),
        (change(&|request| request.model_version = "7".into()), Code::NotFound, "serves version 1, not 7"),
        (change(&|request| request.inputs[0].shape = vec![2, 1]), Code::InvalidArgument, "needs 2 values, 1 were sent"),
        (change(&|request| request.inputs[0].shape = vec![1]), Code::InvalidArgument, "the model takes [-1, 1]"),
        (change(&|request| request.inputs[0].datatype = "FP32".into()), Code::InvalidArgument, "fp32_contents"),
        (change(&|request| request.inputs[0].datatype = "FLOAT".into()), Code::InvalidArgument, "unknown datatype"),
        (change(&|request| request.inputs[0].name = "z".into()), Code::InvalidArgument, "\"z\""),
        (change(&|request| request.inputs.clear()), Code::InvalidArgument, "\"x\" is absent"),
        (
            change(&|request| {
                request.outputs = vec![InferRequestedOutputTensor { name: "y".into(), ..Default::default() }]
            }),
            Code::InvalidArgument,
            "unknown output \"y\": the model has y_pred",
        ),
        (
            change(&|request| request.raw_input_contents = vec![vec![0; 8].into()]),
            Code::InvalidArgument,
            "beside raw_input_contents",
        ),
        (
            change(&|request| {
                request.inputs[0].parameters.insert("shared_memory_region".into(), region.clone());
            }),
            Code::Unimplemented,
            "shared memory",
        ),
        (
            ModelInferRequest { raw_input_contents: vec![vec![0; 7].into()], ..founding_raw(&[1.0]) },
            Code::InvalidArgument,
            "7 bytes",
        ),
    ];
    calls(&server, async |channel| {
        let mut client = Client::new(channel);
        for (request, code, words) in wrong {
            let refusal = client.model_infer(request).await.unwrap_err();
            assert_eq!(refusal.code(), code, "{refusal:?}");
            assert!(refusal.message().contains(words), "{refusal:?}");
        }
        client.model_infer(founding("", &[1.0])).await.unwrap();
    });
}

#[test]
fn a_deadline_that_has_passed_ends_the_call() {
    let server = Server::start_furnished();
    let whole = |number| InferParameter { parameter_choice: Some(ParameterChoice::Int64Param(number)) };
    calls(&server, async |channel| {
        let mut client = Client::new(channel);
        // A microsecond for what takes thousands. The client keeps to a deadline of gRPC's by itself, so that Triton's
        // parameter shows what the server does.
        let mut late = founding_raw(&vec![1.0; 1_000_000]);
        late.parameters.insert("timeout".into(), whole(1));
        let refusal = client.model_infer(late).await.unwrap_err();
        assert_eq!(refusal.code(), Code::DeadlineExceeded, "{refusal:?}");
        for timeout in [0, 60_000_000] {
            let mut in_time = founding("", &[1.0]);
            in_time.parameters.insert("timeout".into(), whole(timeout));
            client.model_infer(in_time).await.unwrap();
        }
        let mut wrong = founding("", &[1.0]);
        wrong.parameters.insert("timeout".into(), whole(-1));
        assert_eq!(client.model_infer(wrong).await.unwrap_err().code(), Code::InvalidArgument);
        let mut wrong = Request::new(founding("", &[1.0]));
        wrong.metadata_mut().insert("grpc-timeout", "soon".parse().unwrap());
        assert_eq!(client.model_infer(wrong).await.unwrap_err().code(), Code::InvalidArgument);
    });
}

#[test]
fn a_stream_answers_every_request_and_survives_wrong_ones() {
    const CALLS: usize = 500;
    let server = Server::start_furnished();
    calls(&server, async |channel| {
        let requests = (0..CALLS).map(|number| match number % 10 {
            3 => ModelInferRequest { model_name: "nobody".into(), ..founding(&number.to_string(), &[0.0]) },
            _ => founding(&number.to_string(), &[number as f64]),
        });
        let requests: Vec<_> = requests.collect();
        let mut answers =
            Client::new(channel).model_stream_infer(tokio_stream::iter(requests)).await.unwrap().into_inner();
        let mut answered = vec![false; CALLS];
        while let Some(answer) = answers.message().await.unwrap() {
            let response = answer.infer_response.unwrap();
            let number: usize = response.id.parse().unwrap();
            match number % 10 {
                3 => {
                    assert!(answer.error_message.contains("there is no deployment nobody"), "{}", answer.error_message)
                }
                _ => assert_eq!(numbers(&response, "y_pred"), [2.0 * number as f64 + 1.0]),
            }
            assert!(!std::mem::replace(&mut answered[number], true), "{number} was answered twice");
            let is_final = &response.parameters["triton_final_response"].parameter_choice;
            assert_eq!(*is_final, Some(ParameterChoice::BoolParam(true)));
        }
        assert!(answered.iter().all(|answered| *answered));
    });
}

#[test]
fn answers_without_an_id_keep_the_order_of_their_requests() {
    let server = Server::start_furnished();
    calls(&server, async |channel| {
        let requests: Vec<_> = (0..200).map(|number| founding("", &[f64::from(number)])).collect();
        let mut answers =
            Client::new(channel).model_stream_infer(tokio_stream::iter(requests)).await.unwrap().into_inner();
        for number in 0..200 {
            let answer = answers.message().await.unwrap().unwrap();
            assert_eq!(numbers(&answer.infer_response.unwrap(), "y_pred"), [2.0 * f64::from(number) + 1.0]);
        }
        assert!(answers.message().await.unwrap().is_none());
    });
}

#[test]
fn messages_may_be_compressed() {
    let server = Server::start_furnished();
    calls(&server, async |channel| {
        for encoding in [CompressionEncoding::Gzip, CompressionEncoding::Zstd] {
            let mut client = Client::new(channel.clone()).send_compressed(encoding).accept_compressed(encoding);
            let answer = client.model_infer(founding("", &[1.0; 1000])).await.unwrap();
            assert_eq!(answer.metadata().get("grpc-encoding").unwrap(), &*encoding.to_string());
            assert_eq!(numbers(answer.get_ref(), "y_pred"), [3.0; 1000]);
        }
        // Who only could read compressed answers gets none.
        let mut client = Client::new(channel).accept_compressed(CompressionEncoding::Gzip);
        let answer = client.model_infer(founding("", &[1.0; 1000])).await.unwrap();
        assert!(answer.metadata().get("grpc-encoding").is_none());
    });
}

#[test]
fn a_message_that_is_too_large_is_refused() {
    let server = Server::start_with(&["--max-body-bytes", "10000"]);
    server.import_founding();
    server.wattle(&["deploy", "founding"]);
    calls(&server, async |channel| {
        let mut client = Client::new(channel.clone());
        let refusal = client.model_infer(founding_raw(&[1.0; 2000])).await.unwrap_err();
        assert_eq!(refusal.code(), Code::ResourceExhausted, "{refusal:?}");
        assert!(refusal.message().contains("larger than 10000 bytes"), "{refusal:?}");
        // Small as it comes, too large when it is unpacked.
        let mut client = Client::new(channel.clone()).send_compressed(CompressionEncoding::Gzip);
        let refusal = client.model_infer(founding_raw(&[1.0; 2000])).await.unwrap_err();
        assert_eq!(refusal.code(), Code::ResourceExhausted, "{refusal:?}");
        let requests = tokio_stream::iter(vec![founding_raw(&[1.0]), founding_raw(&[1.0; 2000])]);
        let mut answers = Client::new(channel.clone()).model_stream_infer(requests).await.unwrap().into_inner();
        assert_eq!(numbers(&answers.message().await.unwrap().unwrap().infer_response.unwrap(), "y_pred"), [3.0]);
        let refusal = answers.message().await.unwrap_err();
        assert_eq!(refusal.code(), Code::ResourceExhausted, "{refusal:?}");
        client.model_infer(founding("", &[1.0])).await.unwrap();
    });
}

#[test]
fn rest_answers_on_the_same_port() {
    let server = Server::start_furnished();
    calls(&server, async |channel| {
        Client::new(channel).model_infer(founding("", &[1.0])).await.unwrap();
    });
    let answer = post(&format!("{}/models/founding/predict", server.url), &json!({"x": [1.0]}));
    assert_eq!((answer.status, answer.text.as_str()), (200, r#"{"y_pred":[[3.0]]}"#));
}

#[test]
fn reflection_tells_the_contracts() {
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let server = Server::start();
    calls(&server, async |channel| {
        let mut client = ServerReflectionClient::new(channel.clone());
        let ask = |question| ServerReflectionRequest { host: String::new(), message_request: Some(question) };
        let questions = vec![
            ask(MessageRequest::ListServices(String::new())),
            ask(MessageRequest::FileContainingSymbol("inference.GRPCInferenceService".into())),
        ];
        let mut answers = client.server_reflection_info(tokio_stream::iter(questions)).await.unwrap().into_inner();
        let MessageResponse::ListServicesResponse(list) =
            answers.message().await.unwrap().unwrap().message_response.unwrap()
        else {
            panic!("no list");
        };
        let names: Vec<&str> = list.service.iter().map(|service| service.name.as_str()).collect();
        assert!(
            names.contains(&"inference.GRPCInferenceService") && names.contains(&"grpc.health.v1.Health"),
            "{names:?}"
        );
        let MessageResponse::FileDescriptorResponse(file) =
            answers.message().await.unwrap().unwrap().message_response.unwrap()
        else {
            panic!("no file");
        };
        assert!(!file.file_descriptor_proto.is_empty());

        use tonic_reflection::pb::v1alpha;
        let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(channel);
        let question = v1alpha::ServerReflectionRequest {
            host: String::new(),
            message_request: Some(v1alpha::server_reflection_request::MessageRequest::ListServices(String::new())),
        };
        let answers = client.server_reflection_info(tokio_stream::iter([question])).await.unwrap();
        assert!(answers.into_inner().message().await.unwrap().is_some());
    });
}

#[test]
fn health_follows_readiness_and_open_streams_do_not_hold_up_the_end() {
    let server = Server::start_furnished();
    let process = rustix::process::Pid::from_raw(i32::try_from(server.id()).unwrap()).unwrap();
    calls(&server, async |channel| {
        let mut health = HealthClient::new(channel.clone());
        let about = |service: &str| HealthCheckRequest { service: service.into() };
        for service in ["", "inference.GRPCInferenceService"] {
            let answer = health.check(about(service)).await.unwrap().into_inner();
            assert_eq!(answer.status(), ServingStatus::Serving);
        }
        assert_eq!(health.check(about("nobody")).await.unwrap_err().code(), Code::NotFound);
        let mut watched = health.watch(about("")).await.unwrap().into_inner();
        assert_eq!(watched.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
        let mut unknown = health.watch(about("nobody")).await.unwrap().into_inner();
        assert_eq!(unknown.message().await.unwrap().unwrap().status(), ServingStatus::ServiceUnknown);

        // A stream that stays open, on which one call is answered before the end.
        let (requests, incoming) = tokio::sync::mpsc::channel(1);
        let incoming = tokio_stream::wrappers::ReceiverStream::new(incoming);
        requests.send(founding("", &[1.0])).await.unwrap();
        let mut answers = Client::new(channel).model_stream_infer(incoming).await.unwrap().into_inner();
        assert_eq!(numbers(&answers.message().await.unwrap().unwrap().infer_response.unwrap(), "y_pred"), [3.0]);

        rustix::process::kill_process(process, rustix::process::Signal::TERM).unwrap();
        assert_eq!(watched.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
        assert!(watched.message().await.unwrap().is_none());
        assert_eq!(answers.message().await.unwrap_err().code(), Code::Unavailable);
    });
    // Within its patience, and with the success of an orderly end.
    drop(server.terminate());
}
