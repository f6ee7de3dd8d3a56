// Running kernel bodies on the CPU, one index after the other: what launch.cuh does, for tests without a GPU.
#pragma once

#include <cstdint>
#include <vector>

namespace segdcn {
namespace {

// Items are taken from both ends in turn: a body that relied on their order would be found out.
template <typename Visit>
void each_item(int64_t items, const Visit& visit) {
  for (int64_t i = 0; i < items; ++i) visit(i % 2 == 0 ? items - 1 - i / 2 : i / 2);
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
