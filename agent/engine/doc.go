// Package engine watches one Docker engine and keeps a true picture of its containers and networks.
//
// Docker's own types stop here: what leaves this package are plain values. An event of the engine is only a hint to look
// at an object again; what the look shows is the truth (Watch). The package also starts fairlead's pilot in the engine's
// VM (StartPilot), through the same API and without any registry.
package engine
