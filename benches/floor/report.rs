//! The figures, as a table.

use crate::open_loop::Latencies;
use crate::round::Measured;

/// Prints medians, and the ratio of each mode with its quartiles.
pub(crate) fn print(all: &[Measured]) {
    println!("{:<22}{:<10}{:>16}{:>14}{:>14}", "", "", "CPU-µs/request", "allocations", "system calls");
    for pair in all.chunks(2) {
        for Measured { contender, mode, cpu_micros, allocations, syscalls } in pair {
            let (contender, mode): (&str, &str) = (contender.into(), mode.into());
            let cpu = sorted(cpu_micros.iter().copied());
            let cpu = at(&cpu, 500);
            let syscalls = syscalls.map_or_else(|| "no strace".to_owned(), |calls| format!("{calls:.2}"));
            println!("{mode:<22}{contender:<10}{cpu:>16.2}{allocations:>14.2}{syscalls:>14}");
        }
        if let [floor, credlet] = pair {
            let ratios = sorted(credlet.cpu_micros.iter().zip(&floor.cpu_micros).map(|(own, floor)| own / floor));
            let [low, median, high] = [250, 500, 750].map(|permille| at(&ratios, permille));
            println!("{:<22}{:<10}{median:>16.3}   quartiles {low:.3} to {high:.3}", "", "ratio");
        }
    }
}

/// Prints the latencies at the bounded rate.
pub(crate) fn print_latency(all: &[Latencies]) {
    for Latencies { contender, sorted } in all {
        let contender: &str = contender.into();
        let [half, most, nearly_all] = [500, 990, 999].map(|permille| at(sorted, permille));
        let count = sorted.len();
        println!("5,000 a second, {contender}: p50 {half:?}, p99 {most:?}, p99.9 {nearly_all:?} of {count}");
    }
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    values
}

/// The value below which so many thousandths of all are.
fn at<T: Copy + Default>(sorted: &[T], permille: usize) -> T {
    sorted.get(sorted.len().saturating_sub(1) * permille / 1000).copied().unwrap_or_default()
}
