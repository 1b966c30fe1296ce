//! What llama.cpp allocates, each with an owner that frees it. Whatever llama.cpp asserts of its arguments, which would
//! end the process, is checked by the callers in this folder before.

#![allow(unsafe_code, reason = "llama.cpp is a library of C++ with an interface of C")]

use std::{
    ffi::{CStr, CString},
    num::NonZeroU32,
    os::unix::ffi::OsStrExt as _,
    path::Path,
    ptr::{self, NonNull},
    sync::{Arc, Mutex, PoisonError},
};

use llama_cpp_sys_2 as sys;

use super::{header, log};
use crate::{Error, Result, gguf::Gguf};

/// Each head of each layer looks at every cell, if only to see that it is another sequence's: that of one cell takes about as
/// long as so many bytes of weights, and a hundredth more of time for each token is little enough. Measured with a model of
/// 135 million weights, whose steps of eight tokens took 33 ms with none and 44 ms with 6400 cells of others.
const WEIGHTS_A_CELL: u64 = 512;

/// The most threads of a pool (`GGML_MAX_N_THREADS`).
const MAX_THREADS: u32 = 512;

/// A file that is mapped into memory, with its vocabulary.
#[derive(Debug)]
pub(super) struct Model {
    model: NonNull<sys::llama_model>,
    /// Whether its file says how the embeddings of tokens become one of their text.
    pools: bool,
}

// SAFETY: a model belongs to no thread, and whoever shares one only reads it: contexts, whose creation may write to it, are
// created in `engine::load` before the model is shared.
unsafe impl Send for Model {}
// SAFETY: as above; llama.cpp says of its tokenizer that threads may share it.
unsafe impl Sync for Model {}

/// Threads that compute, and sleep between runs.
#[derive(Debug)]
pub(super) struct Threads {
    pool: NonNull<sys::ggml_threadpool>,
    count: NonZeroU32,
}

// SAFETY: the pool has locks of its own, and belongs to no thread.
unsafe impl Send for Threads {}
// SAFETY: shared references only hand it to contexts, which use it one at a time since the engine is borrowed mutably.
unsafe impl Sync for Threads {}

/// What a context is to hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) sequences: u32,
    pub(super) cells: u32,
    /// Whether every sequence has cells of its own, an equal part of them, instead of a part of those of all.
    pub(super) divided: bool,
    pub(super) batch_tokens: u32,
    /// Tokens that go through the layers at once.
    pub(super) step_tokens: u32,
    /// Rows of logits that one batch may want; no fewer than sequences, or llama.cpp ends the process.
    pub(super) rows: u32,
    /// Whether it computes embeddings, pooled as the model says, instead of logits.
    pub(super) embeddings: bool,
}

/// The memory in which a model computes.
#[derive(Debug)]
pub(super) struct Context {
    context: NonNull<sys::llama_context>,
    /// Both outlive the context, which points to them.
    model: Arc<Model>,
    _threads: Arc<Threads>,
}

// SAFETY: a context belongs to no thread; it is not `Sync`, and every function that computes takes it mutably.
unsafe impl Send for Context {}

/// Tokens to compute, as llama.cpp wants them.
#[derive(Debug, Default)]
pub(super) struct Batch {
    tokens: Vec<sys::llama_token>,
    positions: Vec<sys::llama_pos>,
    sequences: Vec<sys::llama_seq_id>,
    wanted: Vec<i8>,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ran {
    /// All is computed.
    Well,
    /// There was no room, and nothing has changed.
    NoRoom,
    /// The batch was refused, and nothing has changed.
    Refused,
    /// It failed half way.
    Failed,
}

impl Model {
    /// Maps the model into memory. Its header has been read by [`Gguf`] before, which trusts none of it.
    pub(super) fn load(path: &Path, vocabulary_only: bool) -> Result<(Model, log::Heard)> {
        let pools = header::check(&Gguf::open(path)?)?;
        let name = c_path(path)?;
        log::initialise();
        // SAFETY: it takes nothing.
        let mut parameters = unsafe { sys::llama_model_default_params() };
        parameters.load_mode = sys::LLAMA_LOAD_MODE_MMAP;
        parameters.vocab_only = vocabulary_only;
        // SAFETY: the name ends with 0 and lives during the call; the parameters are llama.cpp's own but for two values.
        let (model, heard) = log::listen(|| unsafe { sys::llama_model_load_from_file(name.as_ptr(), parameters) });
        let Some(model) = NonNull::new(model) else {
            let reason = heard.reason("llama.cpp does not say why");
            let reason = reason.strip_prefix("error loading model: ").unwrap_or(&reason);
            return Err(Error::InvalidModel(format!("llama.cpp cannot load the model: {reason}")));
        };
        Ok((Model { model, pools }, heard))
    }

    /// Whether its file says how the embeddings of tokens become one of their text.
    pub(super) fn pools(&self) -> bool {
        self.pools
    }

    pub(super) fn vocabulary(&self) -> *const sys::llama_vocab {
        // SAFETY: the model lives.
        unsafe { sys::llama_model_get_vocab(self.model.as_ptr()) }
    }

    /// Tokens of a text that the model was trained with.
    pub(super) fn context_tokens(&self) -> u32 {
        // SAFETY: the model lives.
        unsafe { sys::llama_model_n_ctx_train(self.model.as_ptr()) }.max(0) as u32
    }

    /// Numbers in an embedding.
    pub(super) fn width(&self) -> u32 {
        // SAFETY: the model lives.
        unsafe { sys::llama_model_n_embd_out(self.model.as_ptr()) }.max(0) as u32
    }

    /// How far layers with a window look back, in tokens; 0 if none has one.
    pub(super) fn window_tokens(&self) -> u32 {
        // SAFETY: the model lives.
        unsafe { sys::llama_model_n_swa(self.model.as_ptr()) }.max(0) as u32
    }

    /// Cells that take little time although no sequence of a batch holds them; see [`WEIGHTS_A_CELL`].
    pub(super) fn idle_cells(&self) -> u32 {
        // SAFETY: the model lives.
        let (bytes, layers, heads) = unsafe {
            let model = self.model.as_ptr();
            (sys::llama_model_size(model), sys::llama_model_n_layer(model), sys::llama_model_n_head(model))
        };
        let looks = u64::from(layers.max(1).unsigned_abs()) * u64::from(heads.max(1).unsigned_abs());
        u32::try_from(bytes / (WEIGHTS_A_CELL * looks)).unwrap_or(u32::MAX)
    }

    /// Whether it keeps a state of all tokens so far, which cannot be cut, beside or instead of cells.
    pub(super) fn is_recurrent(&self) -> bool {
        // SAFETY: the model lives.
        unsafe { sys::llama_model_is_recurrent(self.model.as_ptr()) || sys::llama_model_is_hybrid(self.model.as_ptr()) }
    }

    /// Whether an encoder has to read the text before anything is generated.
    pub(super) fn has_encoder(&self) -> bool {
        // SAFETY: the model lives.
        unsafe { sys::llama_model_has_encoder(self.model.as_ptr()) }
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        // SAFETY: it was loaded, nobody else frees it, and contexts keep it alive as long as they live.
        unsafe { sys::llama_model_free(self.model.as_ptr()) }
    }
}

impl Threads {
    pub(super) fn start(count: NonZeroU32) -> Result<Threads> {
        if count.get() > MAX_THREADS {
            return Err(Error::InvalidInput(format!("{count} threads are too many; {MAX_THREADS} is the most")));
        }
        log::initialise();
        // SAFETY: it takes a number.
        let mut parameters = unsafe { sys::ggml_threadpool_params_default(count.get() as i32) };
        // Whoever waits for work sleeps: a waiting thread that spins takes processor time that is nobody's.
        parameters.poll = 0;
        // SAFETY: the parameters live during the call and are copied.
        let pool = unsafe { sys::ggml_threadpool_new(&raw mut parameters) };
        let pool = NonNull::new(pool).ok_or_else(|| Error::Run(format!("{count} threads cannot be started")))?;
        Ok(Threads { pool, count })
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        // SAFETY: it was made by `ggml_threadpool_new`, and the contexts that used it are gone.
        unsafe { sys::ggml_threadpool_free(self.pool.as_ptr()) }
    }
}

impl Context {
    pub(super) fn new(model: &Arc<Model>, threads: &Arc<Threads>, shape: Shape) -> Result<(Context, log::Heard)> {
        // SAFETY: it takes nothing.
        let mut parameters = unsafe { sys::llama_context_default_params() };
        parameters.n_ctx = shape.cells;
        parameters.n_batch = shape.batch_tokens;
        parameters.n_ubatch = shape.step_tokens;
        parameters.n_seq_max = shape.sequences;
        parameters.n_outputs_max = shape.rows;
        parameters.n_threads = threads.count.get() as i32;
        parameters.n_threads_batch = parameters.n_threads;
        parameters.embeddings = shape.embeddings;
        // Embeddings are pooled as the model says; for logits there is nothing to pool.
        if !shape.embeddings {
            parameters.pooling_type = sys::LLAMA_POOLING_TYPE_NONE;
        }
        // Sequences can have cells in common only if all share one store.
        parameters.kv_unified = !shape.divided;
        // Layers with a window have as many cells as the others, so that sequences can be cut and forked far back.
        parameters.swa_full = true;
        parameters.no_perf = true;
        // SAFETY: the model lives, and is written to by nobody else since it is not shared before its contexts are there.
        let (context, heard) = log::listen(|| unsafe { sys::llama_init_from_model(model.model.as_ptr(), parameters) });
        let Some(context) = NonNull::new(context) else {
            let reason = heard.reason("llama.cpp does not say why; there may be too little memory");
            return Err(Error::Run(format!("llama.cpp cannot make room to compute in: {reason}")));
        };
        let context = Context { context, model: model.clone(), _threads: threads.clone() };
        // SAFETY: context and threads live, and the threads outlive the context that keeps them.
        unsafe { sys::llama_attach_threadpool(context.raw(), threads.pool.as_ptr(), threads.pool.as_ptr()) };
        Ok((context, heard))
    }

    pub(super) fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Cells that were really allocated.
    pub(super) fn cells(&self) -> u32 {
        // SAFETY: the context lives.
        unsafe { sys::llama_n_ctx(self.raw()) }
    }

    /// Cells that one sequence may have.
    pub(super) fn sequence_cells(&self) -> u32 {
        // SAFETY: the context lives.
        unsafe { sys::llama_n_ctx_seq(self.raw()) }
    }

    /// Tokens that a batch may really have.
    pub(super) fn batch_tokens(&self) -> u32 {
        // SAFETY: the context lives.
        unsafe { sys::llama_n_batch(self.raw()) }
    }

    /// Whether it keeps anything of a text that was computed.
    pub(super) fn has_memory(&self) -> bool {
        // SAFETY: the context lives.
        !unsafe { sys::llama_get_memory(self.raw()) }.is_null()
    }

    /// Whether embeddings of whole texts come out of it.
    pub(super) fn pools(&self) -> bool {
        // SAFETY: the context lives.
        let pooling = unsafe { sys::llama_pooling_type(self.raw()) };
        matches!(pooling, sys::LLAMA_POOLING_TYPE_MEAN | sys::LLAMA_POOLING_TYPE_CLS | sys::LLAMA_POOLING_TYPE_LAST)
    }

    /// Computes a batch of at most [`Context::batch_tokens`] tokens of the vocabulary, in sequences that there are, which wants
    /// no more rows than the context was made for.
    pub(super) fn decode(&mut self, batch: &mut Batch) -> (Ran, log::Heard) {
        let count = batch.tokens.len();
        let mut sequences: Vec<*mut sys::llama_seq_id> = batch.sequences.iter_mut().map(ptr::from_mut).collect();
        let mut one_each = vec![1_i32; count];
        let raw = sys::llama_batch {
            n_tokens: count as i32,
            token: batch.tokens.as_mut_ptr(),
            embd: ptr::null_mut(),
            pos: batch.positions.as_mut_ptr(),
            n_seq_id: one_each.as_mut_ptr(),
            seq_id: sequences.as_mut_ptr(),
            logits: batch.wanted.as_mut_ptr(),
        };
        // SAFETY: all arrays have `count` elements, each of `sequences` points to one number, and all live during the call,
        // which copies them; the context is borrowed mutably.
        let (status, heard) = log::listen(|| unsafe { sys::llama_decode(self.raw(), raw) });
        let ran = match status {
            0 => Ran::Well,
            1 => Ran::NoRoom,
            -1 => Ran::Refused,
            _ => Ran::Failed,
        };
        (ran, heard)
    }

    /// The logits behind the token of this number in the last batch; `None` if they were not wanted.
    pub(super) fn logits(&mut self, token: usize, vocabulary: u32) -> Option<&[f32]> {
        // SAFETY: the context is borrowed mutably; numbers out of range give null.
        let row = unsafe { sys::llama_get_logits_ith(self.raw(), i32::try_from(token).ok()?) };
        // SAFETY: a row has as many values as the vocabulary has tokens, and lives until the context is used again.
        (!row.is_null()).then(|| unsafe { std::slice::from_raw_parts(row, vocabulary as usize) })
    }

    /// The embedding of a sequence of the last batch.
    pub(super) fn embedding(&mut self, sequence: u32) -> Option<&[f32]> {
        let width = self.model.width() as usize;
        // SAFETY: the context is borrowed mutably; sequences that were not in the batch give null.
        let row = unsafe { sys::llama_get_embeddings_seq(self.raw(), sequence as i32) };
        // SAFETY: pooled embeddings have `llama_model_n_embd_out` values, and live until the context is used again.
        (!row.is_null()).then(|| unsafe { std::slice::from_raw_parts(row, width) })
    }

    /// Gives `to` the first `tokens` tokens of `from`. Both numbers are below the number of sequences.
    pub(super) fn fork(&mut self, from: u32, to: u32, tokens: u32) {
        // SAFETY: the context is borrowed mutably, and a memory that is null is left alone.
        unsafe { sys::llama_memory_seq_cp(sys::llama_get_memory(self.raw()), from as i32, to as i32, 0, tokens as i32) }
    }

    /// Copies all of a sequence to another one, which is empty; `false`, and anything may be in `to`, if llama.cpp cannot.
    pub(super) fn copy(&mut self, from: u32, to: u32) -> (bool, log::Heard) {
        let mut between = Vec::new();
        let (whole, heard) = self.save(from, &mut between);
        if !whole {
            return (false, heard);
        }
        self.restore(to, &between)
    }

    /// Lets the tokens of a sequence from `start` on go; `false` if its memory cannot be cut there.
    pub(super) fn cut(&mut self, sequence: u32, start: u32) -> bool {
        // SAFETY: as above.
        unsafe { sys::llama_memory_seq_rm(sys::llama_get_memory(self.raw()), sequence as i32, start as i32, -1) }
    }

    /// Lets all tokens of all sequences go.
    pub(super) fn clear(&mut self) {
        // SAFETY: as above.
        unsafe { sys::llama_memory_clear(sys::llama_get_memory(self.raw()), false) }
    }

    /// How many tokens a sequence has, by its last position.
    pub(super) fn length(&self, sequence: u32) -> u32 {
        // SAFETY: the context lives, and an empty sequence or a memory that is null give -1.
        let last = unsafe { sys::llama_memory_seq_pos_max(sys::llama_get_memory(self.raw()), sequence as i32) };
        last.saturating_add(1).max(0) as u32
    }

    /// The first token of which a sequence holds everything; 0 if it is empty.
    pub(super) fn first(&self, sequence: u32) -> u32 {
        // SAFETY: as above.
        let first = unsafe { sys::llama_memory_seq_pos_min(sys::llama_get_memory(self.raw()), sequence as i32) };
        first.max(0) as u32
    }

    /// Appends what a sequence holds to `out`; `false` if llama.cpp cannot say it.
    pub(super) fn save(&mut self, sequence: u32, out: &mut Vec<u8>) -> (bool, log::Heard) {
        let start = out.len();
        log::listen(|| {
            // SAFETY: the context is borrowed mutably.
            let size = unsafe { sys::llama_state_seq_get_size(self.raw(), sequence as i32) };
            out.reserve_exact(size);
            let place = out.spare_capacity_mut().as_mut_ptr().cast::<u8>();
            // SAFETY: the place has `size` bytes or more, and no more are written.
            let written = unsafe { sys::llama_state_seq_get_data(self.raw(), place, size, sequence as i32) };
            let whole = size > 0 && written == size;
            if whole {
                // SAFETY: so many bytes were written just now, within the capacity.
                unsafe { out.set_len(start + size) };
            }
            whole
        })
    }

    /// Fills a sequence with what was saved; `false`, and anything may be in it, if llama.cpp does not take all of it.
    pub(super) fn restore(&mut self, sequence: u32, saved: &[u8]) -> (bool, log::Heard) {
        log::listen(|| {
            // SAFETY: the bytes live during the call, no more are read than there are, and the context is borrowed mutably.
            let read =
                unsafe { sys::llama_state_seq_set_data(self.raw(), saved.as_ptr(), saved.len(), sequence as i32) };
            read == saved.len()
        })
    }

    fn raw(&self) -> *mut sys::llama_context {
        self.context.as_ptr()
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: it was made by `llama_init_from_model`, nobody else frees it, and model and threads still live.
        unsafe { sys::llama_free(self.raw()) }
    }
}

impl Batch {
    pub(super) fn clear(&mut self) {
        self.tokens.clear();
        self.positions.clear();
        self.sequences.clear();
        self.wanted.clear();
    }

    /// Which tokens want their logits, by their numbers in the batch.
    pub(super) fn wanted(&self) -> impl Iterator<Item = usize> + '_ {
        self.wanted.iter().enumerate().filter(|(_, wanted)| **wanted != 0).map(|(index, _)| index)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    pub(super) fn push(&mut self, token: u32, position: u32, sequence: u32, wanted: bool) {
        self.tokens.push(token as sys::llama_token);
        self.positions.push(position as sys::llama_pos);
        self.sequences.push(sequence as sys::llama_seq_id);
        self.wanted.push(i8::from(wanted));
    }
}

/// A path as C wants it.
pub(super) fn c_path(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| Error::InvalidInput(format!("the path {path:?} has a zero byte")))
}

/// What llama.cpp says of the system and of what it was compiled for.
pub(super) fn system_info() -> String {
    static LOCK: Mutex<()> = Mutex::new(());
    let _guard = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: it takes nothing and gives a text that ends with 0, in memory of its own that it writes at every call, which
    // the lock keeps from happening while the text is copied.
    unsafe { CStr::from_ptr(sys::llama_print_system_info()) }.to_string_lossy().into_owned()
}

/// llama.cpp's version.
pub(super) fn version() -> String {
    // SAFETY: it takes nothing and gives a constant text that ends with 0.
    unsafe { CStr::from_ptr(sys::llama_version()) }.to_string_lossy().into_owned()
}
