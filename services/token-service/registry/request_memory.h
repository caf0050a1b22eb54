// Registry's memory of answered mutations (templates shared by its source files).
#pragma once

#include "services/token-service/registry/registry.h"

namespace intermezzo::token {

// INVALID_ARGUMENT where the id is too long.
absl::Status CheckRequestId(const std::string& request_id);
// Method and hash of the request.
std::string RequestFingerprint(const google::protobuf::Message& request);
absl::Status RequestIdReused(const std::string& request_id);

template <typename Response, typename Request>
absl::StatusOr<std::optional<Response>> Registry::Remembered(const Request& request) const {
  if (absl::Status status = CheckRequestId(request.request_id()); !status.ok()) return status;
  auto it = request_numbers_.find(request.request_id());
  if (it == request_numbers_.end()) return std::nullopt;
  const storage::v1::RequestRow& row = requests_.at(it->second);
  Response response;
  if (row.fingerprint() != RequestFingerprint(request) ||
      !response.ParseFromString(row.response())) {
    return RequestIdReused(request.request_id());
  }
  return response;
}

template <typename Request, typename Response>
void Registry::Remember(const Request& request, const Response& response,
                        StoreChange& change) const {
  if (request.request_id().empty()) return;
  storage::v1::TokenServiceRow& state = NextState(change);
  state.set_last_request(state.last_request() + 1);
  auto& [number, row] = change.requests.emplace_back();
  number = state.last_request();
  row.set_request_id(request.request_id());
  row.set_fingerprint(RequestFingerprint(request));
  row.set_response(response.SerializeAsString());
  if (requests_.size() >= options_.remembered_requests) {
    change.dropped_requests.push_back(requests_.begin()->first);
  }
}

template <typename Request, typename Response>
void Registry::Post(const Request& request, const Done<Response>& done,
                    std::function<void()> change) {
  if (worker_->Post(std::move(change))) return;
  done(absl::ResourceExhaustedError(
      "too many changes of the registry are waiting for the disk: try again later"));
}

}  // namespace intermezzo::token
