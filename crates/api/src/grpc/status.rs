//! The one table from codes to gRPC's.

use tonic::{
    Code as GrpcCode, Status,
    metadata::{AsciiMetadataValue, MetadataMap},
};

use crate::{ApiError, Code, failures};

impl Code {
    /// Triton's mapping where Triton has the case, otherwise the nearest of gRPC's own.
    pub(super) fn grpc(self) -> GrpcCode {
        match self {
            Code::InvalidArgument => GrpcCode::InvalidArgument,
            Code::NotFound => GrpcCode::NotFound,
            Code::Conflict => GrpcCode::FailedPrecondition,
            Code::Unsupported => GrpcCode::Unimplemented,
            Code::Forbidden => GrpcCode::PermissionDenied,
            Code::Timeout | Code::Expired => GrpcCode::DeadlineExceeded,
            Code::TooLarge | Code::TooMany | Code::OutOfSpace => GrpcCode::ResourceExhausted,
            Code::Unavailable => GrpcCode::Unavailable,
            Code::Internal => GrpcCode::Internal,
        }
    }
}

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Status {
        failures::note(&error);
        let mut metadata = MetadataMap::new();
        if let Some(seconds) = error.retry_after_seconds {
            metadata.insert("retry-after", AsciiMetadataValue::from(seconds));
            // The same for clients that retry by themselves.
            metadata.insert("grpc-retry-pushback-ms", AsciiMetadataValue::from(seconds.saturating_mul(1000)));
        }
        Status::with_metadata(error.code.grpc(), error.message, metadata)
    }
}
