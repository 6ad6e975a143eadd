//! Takes one step so many times, for a counter of instructions: `micro NAME COUNT`; `micro --list` names the counted ones.

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
        (Some(name), Some(count)) if cases.iter().any(|case| case.name == name) => {
            for case in cases.iter().filter(|case| case.name == name) {
                let mut step = (case.make)();
                (0..count).for_each(|_| step());
            }
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("usage: micro --list | NAME COUNT");
            ExitCode::FAILURE
        }
    }
}
