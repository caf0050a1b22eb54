// Compares replicas object by object, from streams of digests in byte order of the path. Knows no
// network: a stream may be a fake.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "intermezzo/node/v1/node.pb.h"

namespace intermezzo::mezzo {

// A replica's digests as they arrive. One thread.
class DigestStream {
 public:
  virtual ~DigestStream() = default;
  // False at the end of the stream; status() then says whether it ended well.
  virtual bool Next(node::v1::ListDigestsResponse& response) = 0;
  virtual absl::Status status() = 0;
};

// One thing in which replicas differ.
struct Difference {
  std::string path;   // bytes, empty for the root
  std::string field;  // "content", "mtime", "xattr user.colour", "presence", ...
  // What each node has, for people; by node name.
  std::map<std::string, std::string> values;
};

// One comparison of all replicas.
struct Comparison {
  uint64_t objects = 0;  // paths compared
  uint64_t bytes = 0;    // sum of file sizes, of the first replica that has the path
  uint64_t difference_count = 0;
  std::vector<Difference> differences;  // the first `max_differences`
  // Empty where every replica stood still at one seq all the time; else which one did not.
  std::string unsteady;
  uint64_t seq = 0;
};

struct ReplicaDigests {
  std::string node;
  DigestStream* stream;
};

// Called now and then with the paths and bytes compared so far.
using ComparisonProgress = std::function<void(uint64_t objects, uint64_t bytes)>;

// Merges the streams. Stops early, with `unsteady` set, where the replicas do not begin at one seq
// with nothing pending. The stream's error where one breaks; INTERNAL where a replica sends paths
// out of order or no closing cursor.
absl::StatusOr<Comparison> CompareReplicas(const std::vector<ReplicaDigests>& replicas,
                                           size_t max_differences,
                                           const ComparisonProgress& progress);

// The differences of one path; nullptr where a replica does not have it.
std::vector<Difference> CompareObject(
    const std::vector<std::pair<std::string, const node::v1::Digest*>>& digests);

}  // namespace intermezzo::mezzo
