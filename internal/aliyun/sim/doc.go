// Package sim is a local Alibaba Cloud: the signed RPC API of ECS and VPC as far as ENIs go, the metadata service, and a
// VPC whose ENIs are real links. It drives the demo, tests and benchmarks, through the vendor's SDK.
//
// A Cloud is one model behind one mutex. Handlers check and change the model with the mutex held, and leave it for the
// Fabric, which makes the links. Changes to one ENI, with their Fabric calls, follow each other under that ENI's op
// lock, which is always taken before the mutex. States that take time (Attaching, Detaching, Deleting) end after a
// configured delay; with none, the state is entered and left before the call is answered, and other callers may still
// see it while the Fabric works.
//
// An address is routed by the Fabric only while the model says it belongs to the ENI: it is taken before the Fabric
// learns of it and freed after the Fabric forgot it.
package sim
