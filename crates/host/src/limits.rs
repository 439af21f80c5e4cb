//! What a guest may use.

use std::time::Duration;

use crate::pairs::PairLimits;

/// Bounds for one VM. Every one of them is enforced inside this crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Wall time of one callback. When hit: a trap with reason `cpu`.
    pub callback_time_max: Duration,
    /// Wall time of all start-up functions and of configure together.
    pub start_time_max: Duration,
    /// Linear memory, bytes. When hit, growth fails as the guest sees it; a trap that follows has reason `memory`.
    pub memory_bytes_max: u64,
    /// Elements of all tables together.
    pub table_elements_max: u64,
    /// Header pair lists that a guest passes.
    pub pairs: PairLimits,
    /// The value of a header that a guest sets, bytes. Larger ones are refused.
    pub header_value_bytes_max: usize,
    /// All headers of one map together, bytes; and their number is [`PairLimits::count_max`]. Further ones are refused.
    pub header_map_bytes_max: usize,
    /// A body buffer after an edit, bytes. Larger ones are refused.
    pub body_bytes_max: usize,
    /// One log message, bytes; what is beyond is cut.
    pub log_message_bytes_max: usize,
    /// Actions (continue, local reply, close) of one callback; further ones are refused.
    pub actions_max: usize,
    /// Bytes of a local reply's details; what is beyond is cut.
    pub local_reply_details_bytes_max: usize,
    /// Bytes of one local reply's body; what is beyond is cut.
    pub local_reply_bytes_max: usize,
    /// Call-outs of one VM that are under way at the same time; further ones answer `InternalFailure`.
    pub calls_max: usize,
    /// Wall time of one call-out, whatever the guest asks for; 0 from the guest means this.
    pub call_time_max: Duration,
    /// Bytes of all call-outs of one callback: headers, bodies, messages and trailers.
    pub call_bytes_max: usize,
    /// The shortest time between two ticks; shorter periods become this one.
    pub tick_period_min: Duration,
    /// Bytes of a foreign function's arguments. What such a function does is the host's time, which no deadline ends.
    pub foreign_argument_bytes_max: usize,
    /// Bytes that the foreign function `uncompress` may make.
    pub uncompress_bytes_max: usize,
    /// Bytes of a CEL expression.
    pub expression_bytes_max: usize,
    /// What evaluating a CEL expression may cost at most, in units of about a nanosecond; a byte that it makes counts eight.
    /// Computed beforehand from the expression and the size of what it reads. Over it the evaluation is refused.
    pub expression_cost_max: u64,
    /// CEL expressions of one VM.
    pub expressions_max: usize,
    /// Bytes of a property path.
    pub property_path_bytes_max: usize,
    /// Bytes of a property value that a guest sets.
    pub property_value_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            callback_time_max: Duration::from_secs(1),
            start_time_max: Duration::from_secs(60),
            memory_bytes_max: 512 << 20,
            table_elements_max: 1 << 20,
            pairs: PairLimits::default(),
            header_value_bytes_max: 64 << 10,
            header_map_bytes_max: 1 << 20,
            body_bytes_max: 16 << 20,
            log_message_bytes_max: 16 << 10,
            actions_max: 64,
            local_reply_details_bytes_max: 1 << 10,
            local_reply_bytes_max: 1 << 20,
            calls_max: 1024,
            call_time_max: Duration::from_secs(60),
            call_bytes_max: 16 << 20,
            tick_period_min: Duration::from_millis(1),
            foreign_argument_bytes_max: 16 << 20,
            uncompress_bytes_max: 32 << 20,
            expression_bytes_max: 4 << 10,
            expression_cost_max: 200_000_000,
            expressions_max: 1000,
            property_path_bytes_max: 4 << 10,
            property_value_bytes_max: 64 << 10,
        }
    }
}

/// Enforces the memory and table limits, and remembers that one was hit.
#[derive(Debug)]
pub(crate) struct MemoryLimiter {
    pub(crate) memory_bytes_max: usize,
    pub(crate) table_elements_max: usize,
    pub(crate) table_elements: usize,
    pub(crate) refused: bool,
}

impl wasmtime::ResourceLimiter for MemoryLimiter {
    fn memory_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let allowed = desired <= self.memory_bytes_max;
        self.refused |= !allowed;
        Ok(allowed)
    }

    fn table_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        // Of all tables together: a module may have a hundred.
        let all = self.table_elements.saturating_add(desired.saturating_sub(current));
        let fits = all <= self.table_elements_max;
        if fits {
            self.table_elements = all;
        }
        Ok(fits)
    }
}
