#include "services/common/runner/process_metrics.h"

#include <prometheus/metric_family.h>
#include <sys/resource.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <string_view>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"

namespace intermezzo {
namespace {

using prometheus::MetricFamily;
using prometheus::MetricType;

std::string ReadProcFile(const char* path) {
  std::ifstream file(path);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

MetricFamily Single(const char* name, const char* help, MetricType type, double value) {
  MetricFamily family{name, help, type, {}};
  prometheus::ClientMetric& metric = family.metric.emplace_back();
  (type == MetricType::Counter ? metric.counter.value : metric.gauge.value) = value;
  return family;
}

// Fields of /proc/self/stat from `state` (the third) on: the name before it may hold blanks.
std::vector<std::string> StatFields() {
  const std::string stat = ReadProcFile("/proc/self/stat");
  const size_t name_end = stat.rfind(") ");
  if (name_end == stat.npos) return {};
  return absl::StrSplit(stat.substr(name_end + 2), ' ');
}

std::optional<double> BootTime() {
  const std::string stat = ReadProcFile("/proc/stat");
  const size_t at = stat.find("\nbtime ");
  if (at == stat.npos) return std::nullopt;
  double seconds = 0;
  const size_t begin = at + 7;
  if (!absl::SimpleAtod(stat.substr(begin, stat.find('\n', begin) - begin), &seconds)) {
    return std::nullopt;
  }
  return seconds;
}

std::optional<double> CountOpenFds() {
  std::error_code error;
  double count = -1;  // the directory handle that counts is one of them
  for (std::filesystem::directory_iterator it("/proc/self/fd", error), end; !error && it != end;
       it.increment(error)) {
    ++count;
  }
  if (error) return std::nullopt;
  return count;
}

}  // namespace

std::vector<MetricFamily> ProcessMetrics::Collect() const {
  std::vector<MetricFamily> families;
  rusage usage;
  if (getrusage(RUSAGE_SELF, &usage) == 0) {
    const double seconds =
        static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
        static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
    families.push_back(Single("process_cpu_seconds_total", "User and system CPU time in seconds.",
                              MetricType::Counter, seconds));
  }
  // Positions after `state`: proc(5) field number minus 3.
  const std::vector<std::string> stat = StatFields();
  double value = 0;
  if (stat.size() > 21) {
    if (absl::SimpleAtod(stat[17], &value)) {
      families.push_back(
          Single("process_threads", "Threads of the process.", MetricType::Gauge, value));
    }
    const std::optional<double> boot = BootTime();
    if (boot && absl::SimpleAtod(stat[19], &value)) {
      families.push_back(Single("process_start_time_seconds",
                                "Start of the process in seconds since 1970.", MetricType::Gauge,
                                *boot + value / static_cast<double>(sysconf(_SC_CLK_TCK))));
    }
    if (absl::SimpleAtod(stat[20], &value)) {
      families.push_back(Single("process_virtual_memory_bytes", "Virtual memory in bytes.",
                                MetricType::Gauge, value));
    }
    if (absl::SimpleAtod(stat[21], &value)) {
      families.push_back(Single("process_resident_memory_bytes", "Resident memory in bytes.",
                                MetricType::Gauge,
                                value * static_cast<double>(sysconf(_SC_PAGESIZE))));
    }
  }
  if (const std::optional<double> fds = CountOpenFds()) {
    families.push_back(
        Single("process_open_fds", "Open file descriptors.", MetricType::Gauge, *fds));
  }
  rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    families.push_back(Single("process_max_fds", "Most file descriptors that may be open.",
                              MetricType::Gauge, static_cast<double>(limit.rlim_cur)));
  }
  return families;
}

}  // namespace intermezzo
