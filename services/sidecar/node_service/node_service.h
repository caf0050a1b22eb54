// NodeService: what a node says of itself, and digests of its replicas for `mezzo verify`.
#pragma once

#include <memory>
#include <string>

#include "intermezzo/node/v1/node.pb.h"

namespace grpc {
class Service;
}

namespace intermezzo::sidecar {

class Replica;

class NodeService {
 public:
  // The node's replicas; the sidecar.
  class Replicas {
   public:
    virtual ~Replicas() = default;
    virtual node::v1::GetNodeStatusResponse NodeStatus() = 0;
    // Null where the node has none of that collection now.
    virtual std::shared_ptr<Replica> FindReplica(const std::string& collection) = 0;
  };

  // `replicas` outlives it.
  explicit NodeService(Replicas& replicas);
  ~NodeService();
  grpc::Service* service();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace intermezzo::sidecar
