package main

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/nearpath/nearpath/cni"
	"github.com/nearpath/nearpath/internal/agentapi"
	"github.com/nearpath/nearpath/internal/cluster"
)

// gatePatience bounds how long an ADD waits for the object of a pod that some policy may select. A runtime gives up after two
// minutes and more.
const gatePatience = 15 * time.Second

// A localPod is a pod of this node as its attachment has it. Its addresses are known by that before the API knows them, and
// until nobody can use them any more.
type localPod struct {
	Ref    cni.PodRef
	Addrs  []netip.Addr
	Number uint16 // its place in the kernel's table of policies
}

// key is what attached pods are told apart by.
func (p localPod) key() netip.Addr { return p.Addrs[0] }

func (p localPod) name() cluster.Name {
	return cluster.Name{Namespace: p.Ref.Namespace, Name: p.Ref.Name}
}

// await returns when the labels of a pod are known, if some policy may ask for them: which policies count for a pod cannot be
// told without. Pods of namespaces that no policy is about are not waited for.
func (s *policySync) await(ctx context.Context, ref cni.PodRef) error {
	ctx, cancel := context.WithTimeoutCause(ctx, gatePatience, errNoObject)
	defer cancel()
	for {
		s.mu.Lock()
		known, moved := s.known(ref), s.moved
		s.mu.Unlock()
		if known {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return &agentapi.CNIError{
				Code: tryAgainLater, Msg: "learn which policies count for the pod",
				Details: fmt.Sprintf("policies may select pods of namespace %q, and the object of pod %q with UID %q is not known: %v", ref.Namespace, ref.Name, ref.UID, context.Cause(ctx)),
			}
		}
	}
}

var errNoObject = fmt.Errorf("waited %s for it", gatePatience)

// known says whether what counts for a pod can be told. The caller holds mu.
func (s *policySync) known(ref cni.PodRef) bool {
	if s.snapshot == nil || ref.Name == "" { // a container without a name is no pod that a policy could select
		return ref.Name == ""
	}
	return !s.cfg.Planner.MaySelect(ref.Namespace) || objectKnown(s.snapshot, ref)
}

// admit has the kernel hold what counts for a pod, before its links get programs and it may send. kept says that the kernel
// knew the pod before: then what it holds for it stays for as long as nothing better can be told.
func (s *policySync) admit(ctx context.Context, p localPod, kept bool) error {
	if p.Number == 0 {
		return &agentapi.CNIError{Code: tryAgainLater, Msg: "enforce policies on the pod", Details: "the kernel's table has no room for another pod of this node"}
	}
	s.mu.Lock()
	planned := s.snapshot != nil
	s.mu.Unlock()
	if !kept && !planned {
		return &agentapi.CNIError{Code: tryAgainLater, Msg: "enforce policies on the pod", Details: "no policies are known yet"}
	}
	if !kept {
		if err := s.await(ctx, p.Ref); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.setPod(p)
	s.change(cluster.Change{}, time.Time{})
	if s.failure == nil || kept || !s.cfg.Planner.MaySelect(p.Ref.Namespace) {
		return nil
	}
	return &agentapi.CNIError{Code: tryAgainLater, Msg: "enforce policies on the pod", Details: s.failure.Error()}
}

// dismiss has the kernel forget a pod whose links are gone. What of it cannot be written now is tried again.
func (s *policySync) dismiss(addrs []netip.Addr) {
	if len(addrs) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone != nil {
		s.gone[addrs[0]] = true
	}
	if p, known := s.pods[addrs[0]]; known {
		s.removePod(p)
		s.change(cluster.Change{}, time.Time{})
	}
}

// wishFunc is as cni.Config.Wish.
type wishFunc = func(context.Context, cni.Attachment, map[string]string) (cni.Wish, error)

// wish waits for what counts for the pod before anything is made for it.
func (s *policySync) wish(next wishFunc) wishFunc {
	return func(ctx context.Context, a cni.Attachment, annotations map[string]string) (cni.Wish, error) {
		if err := s.await(ctx, a.Pod); err != nil {
			return cni.Wish{}, err
		}
		return next(ctx, a, annotations)
	}
}

// objectKnown says whether the labels are known of this very pod, and not of an earlier one of its name. The object of a static
// pod is a mirror, which has another UID.
func objectKnown(snapshot *cluster.Snapshot, ref cni.PodRef) bool {
	name := cluster.Name{Namespace: ref.Namespace, Name: ref.Name}
	pod := snapshot.PolicyPod(name)
	if pod == nil || !pod.Local {
		return false
	}
	if ref.UID == "" || pod.UID == ref.UID {
		return true
	}
	full := snapshot.Pod(name)
	if full == nil {
		return false
	}
	_, mirror := full.Annotations[annotationMirror]
	return mirror || full.UID == ""
}
