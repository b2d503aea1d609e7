//! `amphora run` as its owner sees it: a file, a process, clients and members in a namespace.

mod drain;
mod examples;
mod hooks;
mod host;
mod names;
mod run;
mod upgrade;
