// The instructions of AMX that the kernel needs, or, to test it on any machine, the same in C++.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace ptune {

constexpr size_t kTileRows = 16, kTileBytes = 64;  // of a row

struct alignas(64) TileShapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

// Tiles have numbers, which GCC's intrinsics paste into the instruction: hence macros.
#ifdef PTUNE_EMULATED_TILES

inline bool has_tiles() { return true; }

struct EmulatedTile {
  uint8_t bytes[kTileRows][kTileBytes];
};

inline EmulatedTile* emulated() {
  static thread_local EmulatedTile tiles[8];
  return tiles;
}

// As Intel's manual has TDPBSUD: signed bytes of a, unsigned bytes of b.
inline void add_products(EmulatedTile& to, const EmulatedTile& a, const EmulatedTile& b) {
  for (size_t m = 0; m < kTileRows; ++m)
    for (size_t n = 0; n < kTileBytes / 4; ++n) {
      int32_t sum;
      std::memcpy(&sum, to.bytes[m] + 4 * n, 4);
      for (size_t k = 0; k < kTileBytes; ++k)
        sum += static_cast<int8_t>(a.bytes[m][k]) * b.bytes[k / 4][4 * n + k % 4];
      std::memcpy(to.bytes[m] + 4 * n, &sum, 4);
    }
}

#define TILES_BEGIN(shapes) std::memset(emulated(), (shapes).palette, 8 * sizeof(EmulatedTile))
#define TILES_END() std::memset(emulated(), 0x55, 8 * sizeof(EmulatedTile))
#define TILE_ZERO(tile) std::memset(emulated() + tile, 0, sizeof(EmulatedTile))
#define TILE_LOAD(tile, from) std::memcpy(emulated() + tile, from, sizeof(EmulatedTile))
#define TILE_STORE(tile, to) std::memcpy(to, emulated() + tile, sizeof(EmulatedTile))
#define TILE_ADD_PRODUCTS(to, a, b) add_products(emulated()[to], emulated()[a], emulated()[b])

#else

// Linux grants tiles to a process that asks.
inline bool has_tiles() {
#if defined(__linux__) && defined(SYS_arch_prctl)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  __builtin_cpu_init();
  return __builtin_cpu_supports("amx-tile") && __builtin_cpu_supports("amx-int8") &&
         syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

// GCC takes the instruction to read eight bytes: without the barrier it may leave out the others.
#define TILES_BEGIN(shapes)                       \
  asm volatile("" : : "r"(&(shapes)) : "memory"); \
  _tile_loadconfig(&(shapes))
#define TILES_END() _tile_release()
#define TILE_ZERO(tile) _tile_zero(tile)
#define TILE_LOAD(tile, from) _tile_loadd(tile, from, 64)
#define TILE_STORE(tile, to) _tile_stored(tile, to, 64)
#define TILE_ADD_PRODUCTS(to, a, b) _tile_dpbsud(to, a, b)

#endif

}  // namespace ptune
