// The open streams of a service, so that a drain can end them. Thread-safe.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "services/token-service/grpc/watch_stream.h"

namespace intermezzo::token {

template <typename Response>
class StreamSet {
 public:
  // After Close the stream is ended at once.
  uint64_t Add(const std::shared_ptr<WatchStream<Response>>& stream) {
    bool closed = false;
    uint64_t id = 0;
    {
      absl::MutexLock lock(&mu_);
      closed = closed_;
      id = next_++;
      if (!closed) streams_[id] = stream;
    }
    if (closed) stream->End(Closing());
    return id;
  }
  void Remove(uint64_t id) {
    absl::MutexLock lock(&mu_);
    streams_.erase(id);
  }
  void Close() {
    std::vector<std::shared_ptr<WatchStream<Response>>> open;
    {
      absl::MutexLock lock(&mu_);
      closed_ = true;
      for (auto& [id, weak] : streams_) {
        if (auto stream = weak.lock()) open.push_back(std::move(stream));
      }
      streams_.clear();
    }
    for (const auto& stream : open) stream->End(Closing());
  }

 private:
  static absl::Status Closing() { return absl::UnavailableError("token-service is shutting down"); }

  absl::Mutex mu_;
  bool closed_ ABSL_GUARDED_BY(mu_) = false;
  uint64_t next_ ABSL_GUARDED_BY(mu_) = 1;
  std::map<uint64_t, std::weak_ptr<WatchStream<Response>>> streams_ ABSL_GUARDED_BY(mu_);
};

}  // namespace intermezzo::token
