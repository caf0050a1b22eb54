// Structured logs: one JSON object a line on stderr, with time, level, component, message, and the
// fields collection, node, seq where given. Levels: error - a person must act; warning - something
// was refused or retried; info - a state changed; debug - every decision; trace - every record.
// Any thread may log; lines do not mix. Init is called once, before other threads start; without it
// the level is info. Messages and values may be any bytes.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"

namespace intermezzo::log {

using Field = std::pair<std::string_view, std::string>;

// "trace" to "error"; INVALID_ARGUMENT otherwise. Component is the process's name.
absl::Status Init(std::string_view component, std::string_view level);
void Error(std::string_view message, std::initializer_list<Field> fields = {});
void Warning(std::string_view message, std::initializer_list<Field> fields = {});
void Info(std::string_view message, std::initializer_list<Field> fields = {});
void Debug(std::string_view message, std::initializer_list<Field> fields = {});
void Trace(std::string_view message, std::initializer_list<Field> fields = {});
// Prints the message and aborts: a broken invariant, also in release builds.
[[noreturn]] void Fatal(std::string_view message, std::initializer_list<Field> fields = {});

}  // namespace intermezzo::log
