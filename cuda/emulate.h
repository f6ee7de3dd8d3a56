// Running kernel bodies on the CPU, one index after the other: what launch.cuh does, for tests without a GPU.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace segdcn {
namespace {

// Items are taken from both ends in turn, or with SEGDCN_EMULATED_ORDER=reversed the other way round: a body
// that relied on their order would be found out.
template <typename Visit>
void each_item(int64_t items, const Visit& visit) {
  const char* order = std::getenv("SEGDCN_EMULATED_ORDER");
  const bool reversed = order != nullptr && std::strcmp(order, "reversed") == 0;
  for (int64_t step = 0; step < items; ++step) {
    const int64_t i = reversed ? items - 1 - step : step;
    visit(i % 2 == 0 ? items - 1 - i / 2 : i / 2);
  }
}

template <typename Body>
void launch(const char*, int64_t items, int lanes, const Body& body) {
  each_item(items, [&](int64_t item) {
    for (int lane = lanes - 1; lane >= 0; --lane) body(item, lane, lanes);
  });
}

template <typename Body>
void launch_summed(const char*, int64_t items, int lanes, const Body& body) {
  each_item(items, [&](int64_t item) {
    std::vector<typename Body::Share> shares;
    for (int lane = 0; lane < lanes; ++lane) shares.push_back(body(item, lane, lanes));
    for (int distance = lanes / 2; distance > 0; distance /= 2) {
      const auto before = shares;
      for (int lane = 0; lane < lanes; ++lane) shares[lane].add(before[lane ^ distance]);
    }
    body.finish(item, shares[0]);
  });
}

}  // namespace
}  // namespace segdcn
