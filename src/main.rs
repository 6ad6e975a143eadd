//! The binary: arguments, allocator, logger, then `server`.

use std::process::ExitCode;
use std::time::Duration;

use ringway::runtime::allocator::Allocator;
use ringway::telemetry::log::Logger;
use ringway::{cli, server};

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

fn main() -> ExitCode {
    let options = match cli::parse(std::env::args_os()) {
        Ok(options) => options,
        Err(error) => {
            if error.exit_code == cli::EXIT_OK {
                print!("{}", error.text);
            } else {
                eprint!("{}", error.text);
            }
            return ExitCode::from(error.exit_code);
        }
    };
    let logger = match Logger::new(options.log_options()) {
        Ok(logger) => logger.install(),
        Err(error) => {
            eprintln!("ringway: the log cannot be opened: {error}");
            return ExitCode::from(cli::EXIT_FAILURE);
        }
    };
    let code = server::run(&options, logger);
    logger.drain(Duration::from_secs(1));
    ExitCode::from(code)
}
