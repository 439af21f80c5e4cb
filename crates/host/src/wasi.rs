//! WASI preview 1 without files, sockets, arguments or waiting (spec: proxy-wasm-host §11).
//!
//! All functions exist, because "missing import: wasi_snapshot_preview1.…" is the load error that users meet most;
//! those that would need authority fail with the number that guests expect.

use wasmtime::Linker;

use crate::abi::LogLevel;
use crate::memory::{Call, read, slice_mut, split, write, write_u32, write_u64};
use crate::state::VmState;
use crate::stream::StreamContext;

const SUCCESS: u32 = 0;
const BADF: u32 = 8;
const FAULT: u32 = 21;
const INVAL: u32 = 28;
const NOENT: u32 = 44;
const NOSYS: u32 = 52;
const NOTDIR: u32 = 54;
const NOTSUP: u32 = 58;
const SPIPE: u32 = 70;

/// One random request may not be larger: a guest gets the bytes in pieces.
const RANDOM_BYTES_MAX: u32 = 65_536;
/// Vectors of one write.
const IOVECS_MAX: u32 = 1024;
/// Subscriptions of one poll.
const SUBSCRIPTIONS_MAX: u32 = 1024;

type Result = wasmtime::Result<()>;

/// The two names under which guests import WASI.
pub(crate) const MODULES: [&str; 2] = ["wasi_snapshot_preview1", "wasi_unstable"];

pub(crate) fn define<S: StreamContext>(linker: &mut Linker<VmState<S>>) -> Result {
    for module in MODULES {
        define_process(linker, module)?;
        define_descriptors(linker, module)?;
        define_descriptor_sizes(linker, module)?;
        define_paths(linker, module)?;
        define_sockets(linker, module)?;
    }
    Ok(())
}

fn define_process<S: StreamContext>(l: &mut Linker<VmState<S>>, m: &str) -> Result {
    l.func_wrap(m, "args_get", |_: u32, _: u32| SUCCESS)?;
    l.func_wrap(m, "args_sizes_get", |mut c: Call<'_, S>, count: u32, size: u32| {
        let (memory, _) = split(&mut c);
        fault_unless(write_u32(memory, count, 0) && write_u32(memory, size, 0))
    })?;
    l.func_wrap(m, "environ_get", environ_get::<S>)?;
    l.func_wrap(m, "environ_sizes_get", environ_sizes_get::<S>)?;
    l.func_wrap(m, "clock_time_get", clock_time_get::<S>)?;
    l.func_wrap(m, "clock_res_get", |mut c: Call<'_, S>, clock: u32, out: u32| {
        if clock > 3 {
            return NOTSUP;
        }
        fault_unless(write_u64(split(&mut c).0, out, 1))
    })?;
    l.func_wrap(m, "random_get", random_get::<S>)?;
    l.func_wrap(m, "sched_yield", || SUCCESS)?;
    l.func_wrap(m, "poll_oneoff", poll_oneoff::<S>)?;
    l.func_wrap(m, "proc_exit", |mut c: Call<'_, S>, code: u32| -> Result {
        c.data_mut().exit = Some(code.cast_signed());
        Err(wasmtime::Error::msg("proc_exit"))
    })?;
    l.func_wrap(m, "proc_raise", |_: u32| NOSYS)?;
    Ok(())
}

fn define_descriptors<S: StreamContext>(l: &mut Linker<VmState<S>>, m: &str) -> Result {
    l.func_wrap(m, "fd_write", |c: Call<'_, S>, fd: u32, iovs: u32, n: u32, out: u32| {
        fd_write(c, fd, iovs, n, out)
    })?;
    l.func_wrap(m, "fd_pwrite", |c: Call<'_, S>, fd: u32, iovs: u32, n: u32, _: u64, out: u32| {
        fd_write(c, fd, iovs, n, out)
    })?;
    l.func_wrap(m, "fd_read", |mut c: Call<'_, S>, fd: u32, _: u32, _: u32, out: u32| {
        if fd != 0 {
            return BADF;
        }
        fault_unless(write_u32(split(&mut c).0, out, 0))
    })?;
    l.func_wrap(m, "fd_pread", |_: u32, _: u32, _: u32, _: u64, _: u32| NOSYS)?;
    l.func_wrap(m, "fd_seek", |fd: u32, _: u64, _: u32, _: u32| if is_standard(fd) { SPIPE } else { BADF })?;
    l.func_wrap(m, "fd_tell", |mut c: Call<'_, S>, fd: u32, out: u32| {
        if !is_output(fd) {
            return BADF;
        }
        fault_unless(write_u64(split(&mut c).0, out, 0))
    })?;
    l.func_wrap(m, "fd_close", |_: u32| SUCCESS)?;
    l.func_wrap(m, "fd_fdstat_get", |mut c: Call<'_, S>, fd: u32, out: u32| {
        if !is_output(fd) {
            return BADF;
        }
        // Only the right to write, at offset 8.
        let mut stat = [0_u8; 24];
        if let Some(rights) = stat.get_mut(8) {
            *rights = 64;
        }
        fault_unless(write(split(&mut c).0, out, &stat))
    })?;
    l.func_wrap(m, "fd_fdstat_set_flags", |_: u32, _: u32| NOSYS)?;
    l.func_wrap(m, "fd_fdstat_set_rights", |fd: u32, _: u64, _: u64| output_only(fd))?;
    // Exactly BADF: it ends the guest's search for pre-opened directories. Go panics or loops on anything else.
    l.func_wrap(m, "fd_prestat_get", |_: u32, _: u32| BADF)?;
    l.func_wrap(m, "fd_prestat_dir_name", |_: u32, _: u32, _: u32| NOSYS)?;
    l.func_wrap(
        m,
        "fd_readdir",
        |mut c: Call<'_, S>, _: u32, _: u32, _: u32, _: u64, used: u32| {
            if write_u32(split(&mut c).0, used, 0) { NOTDIR } else { FAULT }
        },
    )?;
    l.func_wrap(
        m,
        "fd_renumber",
        |fd: u32, to: u32| if is_output(fd) && is_output(to) { NOTSUP } else { BADF },
    )?;
    Ok(())
}

fn define_descriptor_sizes<S: StreamContext>(l: &mut Linker<VmState<S>>, m: &str) -> Result {
    l.func_wrap(m, "fd_filestat_get", |_: u32, _: u32| BADF)?;
    l.func_wrap(m, "fd_filestat_set_size", |fd: u32, _: u64| output_only(fd))?;
    l.func_wrap(m, "fd_filestat_set_times", |fd: u32, _: u64, _: u64, _: u32| output_only(fd))?;
    l.func_wrap(m, "fd_advise", |_: u32, _: u64, _: u64, _: u32| SUCCESS)?;
    l.func_wrap(m, "fd_allocate", |fd: u32, _: u64, _: u64| output_only(fd))?;
    l.func_wrap(m, "fd_sync", output_only)?;
    l.func_wrap(m, "fd_datasync", output_only)?;
    Ok(())
}

fn define_paths<S: StreamContext>(l: &mut Linker<VmState<S>>, m: &str) -> Result {
    l.func_wrap(m, "path_open", |_: u32, _: u32, _: u32, _: u32, _: u32, _: u64, _: u64, _: u32, _: u32| {
        NOENT
    })?;
    l.func_wrap(m, "path_filestat_get", |_: u32, _: u32, _: u32, _: u32, _: u32| NOTSUP)?;
    l.func_wrap(m, "path_filestat_set_times", |_: u32, _: u32, _: u32, _: u32, _: u64, _: u64, _: u32| {
        NOTSUP
    })?;
    for name in ["path_create_directory", "path_remove_directory", "path_unlink_file"] {
        l.func_wrap(m, name, |_: u32, _: u32, _: u32| NOTSUP)?;
    }
    l.func_wrap(m, "path_link", |_: u32, _: u32, _: u32, _: u32, _: u32, _: u32, _: u32| NOTSUP)?;
    l.func_wrap(m, "path_symlink", |_: u32, _: u32, _: u32, _: u32, _: u32| NOTSUP)?;
    l.func_wrap(
        m,
        "path_readlink",
        |mut c: Call<'_, S>, _: u32, _: u32, _: u32, _: u32, _: u32, used: u32| {
            if write_u32(split(&mut c).0, used, 0) { NOTSUP } else { FAULT }
        },
    )?;
    l.func_wrap(m, "path_rename", |_: u32, _: u32, _: u32, _: u32, _: u32, _: u32| NOTSUP)?;
    Ok(())
}

fn define_sockets<S: StreamContext>(l: &mut Linker<VmState<S>>, m: &str) -> Result {
    l.func_wrap(m, "sock_accept", |mut c: Call<'_, S>, _: u32, _: u32, out: u32| {
        refuse(split(&mut c).0, &[out])
    })?;
    l.func_wrap(
        m,
        "sock_recv",
        |mut c: Call<'_, S>, _: u32, _: u32, _: u32, _: u32, size: u32, flags: u32| {
            let (memory, _) = split(&mut c);
            // The flags are a 16-bit cell.
            if write(memory, flags, &[0, 0]) { refuse(memory, &[size]) } else { FAULT }
        },
    )?;
    l.func_wrap(m, "sock_send", |mut c: Call<'_, S>, _: u32, _: u32, _: u32, _: u32, size: u32| {
        refuse(split(&mut c).0, &[size])
    })?;
    l.func_wrap(m, "sock_shutdown", |_: u32, _: u32| NOTSUP)?;
    Ok(())
}

fn refuse(memory: &mut [u8], cells: &[u32]) -> u32 {
    if cells.iter().all(|cell| write_u32(memory, *cell, 0)) { NOTSUP } else { FAULT }
}

fn fault_unless(written: bool) -> u32 {
    if written { SUCCESS } else { FAULT }
}

fn is_output(fd: u32) -> bool {
    matches!(fd, 1 | 2)
}

fn is_standard(fd: u32) -> bool {
    fd <= 2
}

fn output_only(fd: u32) -> u32 {
    if is_output(fd) { SUCCESS } else { BADF }
}

fn fd_write<S: StreamContext>(
    mut caller: Call<'_, S>,
    fd: u32,
    iovs: u32,
    count: u32,
    written_out: u32,
) -> u32 {
    if !is_output(fd) {
        return BADF;
    }
    if count > IOVECS_MAX {
        return INVAL;
    }
    let (memory, state) = split(&mut caller);
    let mut text = Vec::new();
    let mut total = 0_u32;
    for i in 0..count {
        let Some(part) = iovec(memory, iovs, i) else { return FAULT };
        total = total.saturating_add(u32::try_from(part.len()).unwrap_or(u32::MAX));
        // What is beyond the log limit is accepted and not kept.
        if text.len() < state.limits.log_message_bytes_max {
            text.extend_from_slice(part.get(..state.limits.log_message_bytes_max).unwrap_or(part));
        }
    }
    if !write_u32(memory, written_out, total) {
        return FAULT;
    }
    state.write_standard(if fd == 2 { LogLevel::Error } else { LogLevel::Info }, &text);
    SUCCESS
}

fn iovec(memory: &[u8], iovs: u32, index: u32) -> Option<&[u8]> {
    let entry = read(memory, iovs.checked_add(index.checked_mul(8)?)?, 8)?;
    let (ptr, rest) = entry.split_first_chunk::<4>()?;
    let len = rest.first_chunk::<4>()?;
    read(memory, u32::from_le_bytes(*ptr), u32::from_le_bytes(*len))
}

fn environ_sizes_get<S: StreamContext>(mut caller: Call<'_, S>, count_out: u32, size_out: u32) -> u32 {
    let (memory, state) = split(&mut caller);
    let variables = &state.plugin.environment;
    let size: usize = variables.iter().map(|(k, v)| k.len() + v.len() + 2).sum();
    let (Ok(count), Ok(size)) = (u32::try_from(variables.len()), u32::try_from(size)) else { return INVAL };
    fault_unless(write_u32(memory, count_out, count) && write_u32(memory, size_out, size))
}

fn environ_get<S: StreamContext>(mut caller: Call<'_, S>, pointers: u32, buffer: u32) -> u32 {
    let (memory, state) = split(&mut caller);
    let (mut cell, mut at) = (pointers, buffer);
    for (key, value) in &state.plugin.environment {
        let text = format!("{key}={value}\0");
        let Ok(len) = u32::try_from(text.len()) else { return INVAL };
        if !write_u32(memory, cell, at) || !write(memory, at, text.as_bytes()) {
            return FAULT;
        }
        (cell, at) = (cell.wrapping_add(4), at.wrapping_add(len));
    }
    SUCCESS
}

fn clock_time_get<S: StreamContext>(mut caller: Call<'_, S>, clock: u32, _: u64, out: u32) -> u32 {
    let (memory, state) = split(&mut caller);
    let now = match clock {
        0 => state.services.unix_nanos(),
        // The two CPU-time clocks: guests only want something that advances.
        1..=3 => state.services.monotonic_nanos(),
        _ => return NOTSUP,
    };
    fault_unless(write_u64(memory, out, now))
}

fn random_get<S: StreamContext>(mut caller: Call<'_, S>, ptr: u32, len: u32) -> u32 {
    if len > RANDOM_BYTES_MAX {
        return INVAL;
    }
    let (memory, state) = split(&mut caller);
    let Some(target) = slice_mut(memory, ptr, len) else { return FAULT };
    if state.services.random(target) { SUCCESS } else { NOSYS }
}

/// Clock subscriptions are reported as expired at once: a guest that sleeps must not hold the worker.
fn poll_oneoff<S: StreamContext>(
    mut caller: Call<'_, S>,
    input: u32,
    output: u32,
    count: u32,
    events_out: u32,
) -> u32 {
    const SUBSCRIPTION_BYTES: u32 = 48;
    const EVENT_BYTES: u32 = 32;
    const CLOCK: u8 = 0;
    if count > SUBSCRIPTIONS_MAX {
        return INVAL;
    }
    let (memory, _) = split(&mut caller);
    let mut events = 0_u32;
    for i in 0..count {
        let at = input.wrapping_add(i * SUBSCRIPTION_BYTES);
        let Some(subscription) = read(memory, at, SUBSCRIPTION_BYTES) else { return FAULT };
        if subscription.get(8) != Some(&CLOCK) {
            continue;
        }
        let mut event = [0_u8; EVENT_BYTES as usize];
        for (to, from) in event.iter_mut().zip(subscription.iter().take(8)) {
            *to = *from;
        }
        if !write(memory, output.wrapping_add(events * EVENT_BYTES), &event) {
            return FAULT;
        }
        events += 1;
    }
    fault_unless(write_u32(memory, events_out, events))
}
