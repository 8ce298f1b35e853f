//! The `process_*` metrics that every Prometheus client library gives, read from `/proc/self` at each scrape.

use procfs::process::{LimitValue, Process};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// Reads the process's own numbers.
#[derive(Debug)]
pub struct ProcessCollector;

/// What one scrape reads; what can't be read is left out.
struct Reading {
    cpu_seconds: f64,
    start_seconds: f64,
    resident_bytes: u64,
    virtual_bytes: u64,
    threads: i64,
    open_fds: Option<u64>,
    max_fds: Option<u64>,
}

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let Some(reading) = Reading::take() else { return Ok(()) };
        counter(&mut encoder, "process_cpu_seconds", "User and system time spent", reading.cpu_seconds)?;
        gauge(&mut encoder, "process_start_time_seconds", "When the process started, Unix seconds", reading.start_seconds)?;
        gauge(&mut encoder, "process_resident_memory_bytes", "Resident memory", reading.resident_bytes)?;
        gauge(&mut encoder, "process_virtual_memory_bytes", "Virtual memory", reading.virtual_bytes)?;
        gauge(&mut encoder, "process_threads", "Threads", reading.threads)?;
        if let Some(open) = reading.open_fds {
            gauge(&mut encoder, "process_open_fds", "Open file descriptors", open)?;
        }
        if let Some(max) = reading.max_fds {
            gauge(&mut encoder, "process_max_fds", "Most file descriptors allowed", max)?;
        }
        Ok(())
    }
}

fn gauge<N>(encoder: &mut DescriptorEncoder, name: &str, help: &str, value: N) -> Result<(), std::fmt::Error>
where
    ConstGauge<N>: EncodeMetric,
{
    let gauge = ConstGauge::new(value);
    gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
}

fn counter(encoder: &mut DescriptorEncoder, name: &str, help: &str, value: f64) -> Result<(), std::fmt::Error> {
    let counter = ConstCounter::new(value);
    counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)
}

impl Reading {
    #[expect(clippy::as_conversions, clippy::cast_precision_loss, reason = "ticks of one process are far below 2^52")]
    fn take() -> Option<Self> {
        let process = Process::myself().ok()?;
        let stat = process.stat().ok()?;
        let ticks_per_second = procfs::ticks_per_second() as f64;
        let boot_seconds = procfs::boot_time_secs().ok()? as f64;
        let most_files = process.limits().ok().map(|limits| limits.max_open_files.soft_limit);
        Some(Self {
            cpu_seconds: stat.utime.saturating_add(stat.stime) as f64 / ticks_per_second,
            start_seconds: boot_seconds + stat.starttime as f64 / ticks_per_second,
            resident_bytes: stat.rss.saturating_mul(procfs::page_size()),
            virtual_bytes: stat.vsize,
            threads: stat.num_threads,
            open_fds: process.fd_count().ok().and_then(|count| u64::try_from(count).ok()),
            max_fds: most_files.and_then(|limit| match limit {
                LimitValue::Value(value) => Some(value),
                LimitValue::Unlimited => None,
            }),
        })
    }
}
