// The runner's parts that need no process: addresses and metrics.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <prometheus/counter.h>
#include <prometheus/metric_family.h>
#include <prometheus/registry.h>
#include <sys/socket.h>
#include <unistd.h>

#include <map>
#include <string>
#include <tuple>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "services/common/runner/listen_address.h"
#include "services/common/runner/metrics_listener.h"
#include "services/common/runner/process_metrics.h"

namespace intermezzo {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(ListenAddressTest, ParsesAndPrints) {
  for (const auto& [text, printed, loopback] : {std::tuple{"127.0.0.1:0", "127.0.0.1:0", true},
                                                {"127.9.9.9:80", "127.9.9.9:80", true},
                                                {"localhost:7", "127.0.0.1:7", true},
                                                {"[::1]:65535", "[::1]:65535", true},
                                                {"0.0.0.0:1", "0.0.0.0:1", false},
                                                {"[::]:1", "[::]:1", false},
                                                {"128.0.0.1:1", "128.0.0.1:1", false}}) {
    const auto address = ParseListenAddress(text, "f");
    ASSERT_TRUE(address.ok()) << address.status();
    EXPECT_EQ(address->str(), printed);
    EXPECT_EQ(address->IsLoopback(), loopback) << text;
  }
  for (const char* text :
       {"", ":", ":80", "127.0.0.1", "127.0.0.1:", "127.0.0.1:-1", "127.0.0.1:+1",
        "127.0.0.1:65536", "127.0.0.1:99999999999", "127.1:1", "::1:1", "[::1]", "[127.0.0.1]:1",
        "host.example:1", "127.0.0.1:80 ", "unix:/a"}) {
    EXPECT_EQ(ParseListenAddress(text, "f").status().code(), absl::StatusCode::kInvalidArgument)
        << text;
  }
}

// The answer to GET /metrics.
std::string Scrape(int port) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  std::string text;
  if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0) {
    const std::string request = "GET /metrics HTTP/1.0\r\n\r\n";
    EXPECT_EQ(write(fd, request.data(), request.size()), static_cast<ssize_t>(request.size()));
    char buffer[4096];
    for (ssize_t n; (n = read(fd, buffer, sizeof(buffer))) > 0;) text.append(buffer, n);
  }
  close(fd);
  return text;
}

TEST(MetricsListenerTest, ServesBuildInfoProcessAndApplication) {
  const auto listener = MetricsListener::Start({"127.0.0.1", 0}, "tiny", "1.2.3");
  ASSERT_TRUE(listener.ok()) << listener.status();
  ASSERT_NE((*listener)->address().port, 0);
  prometheus::BuildCounter()
      .Name("intermezzo_things_total")
      .Help("Things.")
      .Register(*(*listener)->registry())
      .Add({})
      .Increment(3);
  EXPECT_THAT(
      Scrape((*listener)->address().port),
      AllOf(HasSubstr("intermezzo_build_info{component=\"tiny\",version=\"1.2.3\"} 1"),
            HasSubstr("process_resident_memory_bytes "), HasSubstr("intermezzo_things_total 3")));
}

TEST(ProcessMetricsTest, SaysWhatThisProcessIs) {
  std::map<std::string, double> values;
  for (const prometheus::MetricFamily& family : ProcessMetrics().Collect()) {
    ASSERT_EQ(family.metric.size(), 1u);
    values[family.name] = family.type == prometheus::MetricType::Counter
                              ? family.metric[0].counter.value
                              : family.metric[0].gauge.value;
  }
  EXPECT_GT(values["process_cpu_seconds_total"], 0);
  EXPECT_GT(values["process_resident_memory_bytes"], 1e5);
  EXPECT_GE(values["process_virtual_memory_bytes"], values["process_resident_memory_bytes"]);
  EXPECT_GE(values["process_open_fds"], 3);
  EXPECT_GT(values["process_max_fds"], values["process_open_fds"]);
  EXPECT_GE(values["process_threads"], 1);
  const double now = absl::ToDoubleSeconds(absl::Now() - absl::UnixEpoch());
  EXPECT_GT(values["process_start_time_seconds"], now - 3600);
  EXPECT_LT(values["process_start_time_seconds"], now + 60);
}

}  // namespace
}  // namespace intermezzo
