//! Networks of common shapes.

use super::Net;
use crate::rng::Rng;

impl Net {
    /// So many nodes in a row.
    pub fn line(nodes: usize, seed: u64) -> Self {
        let wires: Vec<_> = (1..nodes).map(|node| (node - 1, node)).collect();
        Self::of(nodes, &wires, seed)
    }

    /// So many nodes in a circle.
    pub fn ring(nodes: usize, seed: u64) -> Self {
        let wires: Vec<_> = (0..nodes).map(|node| (node, (node + 1) % nodes)).collect();
        Self::of(nodes, &wires, seed)
    }

    /// Nodes in rows and columns.
    pub fn grid(width: usize, height: usize, seed: u64) -> Self {
        let mut wires = Vec::new();
        for node in 0..width * height {
            if node % width + 1 < width {
                wires.push((node, node + 1));
            }
            if node + width < width * height {
                wires.push((node, node + width));
            }
        }
        Self::of(width * height, &wires, seed)
    }

    /// Connected nodes with so many wires each on average, at random.
    pub fn random(nodes: usize, degree: usize, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let mut wires: Vec<(usize, usize)> = Vec::new();
        for node in 1..nodes {
            wires.push((rng.below(node as u64) as usize, node));
        }
        while wires.len() * 2 < nodes * degree {
            let (a, b) = (
                rng.below(nodes as u64) as usize,
                rng.below(nodes as u64) as usize,
            );
            let wire = (a.min(b), a.max(b));
            if a != b && !wires.contains(&wire) {
                wires.push(wire);
            }
        }
        Self::of(nodes, &wires, seed)
    }

    /// Nodes with these wires between them, of 1 ms each.
    pub fn of(nodes: usize, wires: &[(usize, usize)], seed: u64) -> Self {
        let mut net = Self::new(seed);
        for _ in 0..nodes {
            net.add_node();
        }
        for &(a, b) in wires {
            net.connect(a, b);
        }
        net
    }
}
