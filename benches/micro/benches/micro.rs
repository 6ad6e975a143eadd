//! Times every step with criterion; a filter is an argument: `cargo bench -- route/`.

use std::time::Duration;

use criterion::Criterion;

/// Per step: enough for steps of microseconds, and the whole run takes two minutes.
const WARM_UP: Duration = Duration::from_millis(500);
const MEASURED: Duration = Duration::from_millis(1500);

fn main() {
    let criterion = Criterion::default().warm_up_time(WARM_UP).measurement_time(MEASURED);
    let mut criterion = criterion.without_plots().configure_from_args();
    for case in micro::cases().into_iter().filter(|case| case.timed) {
        let mut step = None;
        criterion.bench_function(&case.name, |bencher| {
            let step = step.get_or_insert_with(|| (case.make)());
            bencher.iter(step);
        });
    }
    criterion.final_summary();
}
