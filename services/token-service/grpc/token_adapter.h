// TokenService over gRPC. No thread waits: an Acquire is a reactor until it is answered.
// Owned by the application; `server` and `registry` outlive the gRPC server.
#pragma once

#include <deque>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/synchronization/mutex.h"
#include "intermezzo/token/v1/token.grpc.pb.h"
#include "services/token-service/core/token_server.h"
#include "services/token-service/grpc/stream_set.h"
#include "services/token-service/registry/registry.h"

namespace intermezzo::token {

class TokenAdapter final : public token::v1::TokenService::CallbackService {
 public:
  TokenAdapter(TokenServer& server, Registry& registry) : server_(server), registry_(registry) {}

  grpc::ServerUnaryReactor* Acquire(grpc::CallbackServerContext* context,
                                    const v1::AcquireRequest* request,
                                    v1::AcquireResponse* response) override;
  grpc::ServerUnaryReactor* Renew(grpc::CallbackServerContext* context,
                                  const v1::RenewRequest* request,
                                  v1::RenewResponse* response) override;
  grpc::ServerUnaryReactor* Release(grpc::CallbackServerContext* context,
                                    const v1::ReleaseRequest* request,
                                    v1::ReleaseResponse* response) override;
  grpc::ServerWriteReactor<v1::WatchRecallsResponse>* WatchRecalls(
      grpc::CallbackServerContext* context, const v1::WatchRecallsRequest* request) override;
  grpc::ServerUnaryReactor* GetToken(grpc::CallbackServerContext* context,
                                     const v1::GetTokenRequest* request,
                                     v1::GetTokenResponse* response) override;
  grpc::ServerUnaryReactor* RecallToken(grpc::CallbackServerContext* context,
                                        const v1::RecallTokenRequest* request,
                                        v1::RecallTokenResponse* response) override;

  // Ends the streams.
  void Close() { streams_.Close(); }

 private:
  bool RecalledBefore(const std::string& request_id);
  void RememberRecall(const std::string& request_id);

  TokenServer& server_;
  Registry& registry_;
  StreamSet<v1::WatchRecallsResponse> streams_;

  // Ids of recalls that were answered with OK, oldest first: a repeated one must not take the token
  // from the next holder. In memory only.
  absl::Mutex mu_;
  std::deque<std::string> recalls_ ABSL_GUARDED_BY(mu_);
  absl::flat_hash_set<std::string> recall_ids_ ABSL_GUARDED_BY(mu_);
};

}  // namespace intermezzo::token
