// presto: the interceptor of one replica's mount. The FUSE driver implements it; so will the
// kernel module's. It drives the Replica (replica/replica.h) and is told of forwarded updates.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "intermezzo/record/v1/record.pb.h"
#include "services/common/types/numbers.h"

namespace intermezzo::sidecar {

// What a forwarded record made stale in kernel caches.
struct Invalidation {
  // A name: looked up anew.
  struct Entry {
    ObjectId parent;
    std::string name;
  };
  // An object: attributes always, cached pages of [offset, offset + length) where length != 0
  // (length < 0: to the end of the file).
  struct Object {
    ObjectId id;
    int64_t offset = 0;
    int64_t length = 0;
  };
  std::vector<Entry> entries;
  std::vector<Object> objects;
};

class Presto {
 public:
  virtual ~Presto() = default;
  // Mounts and serves. FAILED_PRECONDITION says what is missing (/dev/fuse, mount point, ...).
  virtual absl::Status Mount() = 0;
  // Unmounts (lazily where busy, after `grace`) and stops serving. Parked updates were failed.
  virtual void Unmount(absl::Duration grace) = 0;
  // Queues an invalidation; never blocks, never fails: over its limit it forgets ranges, not
  // objects. Called with the replica's update lock held.
  virtual void Invalidate(Invalidation what) = 0;
  // A forwarded record is about to take this object's last name: keep it open if it may be in use.
  // Never blocks, never fails. Called with the replica's update lock held.
  virtual void BeforeRemoval(ObjectId object) {}
  // The object was made again under its id, as another lower object: what applications have open of
  // it means that one from now on. Called with the replica's update lock held, after the commit.
  virtual void Remade(ObjectId object) {}
  // Makes dirty pages of shared mappings arrive as ordinary writes; the gate is still open.
  // DEADLINE_EXCEEDED: they did not all arrive in time.
  virtual absl::Status FlushMappings(absl::Duration timeout) = 0;
  // "fuse" or "kmod".
  virtual std::string kind() const = 0;
};

}  // namespace intermezzo::sidecar
