// Package platform holds the facts about this host and its VM providers: paths, privileges, which neighbour leads to an
// engine's VM, and how the control endpoint is reached.
package platform
