//! Takes one step so many times, for a counter of instructions: `micro NAME COUNT`; `micro --list` names the counted ones,
//! `micro --processor` what of the processor decides about their code.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (name, count) = (arguments.next(), arguments.next().and_then(|count| count.parse::<u64>().ok()));
    let cases = micro::cases();
    match (name.as_deref(), count) {
        (Some("--list"), None) => {
            cases.iter().filter(|case| case.counted).for_each(|case| println!("{}", case.name));
            ExitCode::SUCCESS
        }
        (Some("--processor"), None) => {
            println!("{}", processor().join(" "));
            ExitCode::SUCCESS
        }
        (Some(name), Some(count)) if cases.iter().any(|case| case.name == name) => {
            for case in cases.iter().filter(|case| case.name == name) {
                let mut step = (case.make)();
                (0..count).for_each(|_| step());
            }
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("usage: micro --list | --processor | NAME COUNT");
            ExitCode::FAILURE
        }
    }
}

/// The kind of processor, and those of its features by which the C library and memchr choose their code. An interpreter such
/// as valgrind shows programs another processor than the machine has.
fn processor() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    let features = [
        ("sse4_2", is_x86_feature_detected!("sse4.2")),
        ("avx2", is_x86_feature_detected!("avx2")),
        ("avx512bw", is_x86_feature_detected!("avx512bw")),
        ("erms", is_x86_feature_detected!("ermsb")),
    ];
    #[cfg(not(target_arch = "x86_64"))]
    let features: [(&str, bool); 0] = [];
    let there = features.into_iter().filter(|(_, is_there)| *is_there);
    [std::env::consts::ARCH].into_iter().chain(there.map(|(name, _)| name)).collect()
}
