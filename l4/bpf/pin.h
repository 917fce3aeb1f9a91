/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Where maps are pinned. The loader defines PIN_<map> for each map that l4/pins.py knows, with the
 * number of its layout in its name. A map that is pinned there already is taken up again with its
 * values, so that a program can be replaced under traffic.
 */
#ifndef EDGE_PIN_H
#define EDGE_PIN_H

#define PIN(map) PIN_##map

/* Identifiers have 16 bits: an array over all of them needs no bounds but its own. */
#define IDENTIFIERS 65536

#endif
