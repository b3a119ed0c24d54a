package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"
)

// The annotations that bound a pod's traffic. Those of Kubernetes are quantities of bits per second; those of Terway are
// older and count bytes in powers of 1024, whatever the case of the unit: "1m" is 8,388,608 bit/s there, and a
// thousandth of a bit here.
const (
	annotationIngress       = "kubernetes.io/ingress-bandwidth"
	annotationEgress        = "kubernetes.io/egress-bandwidth"
	annotationIngressTerway = "k8s.aliyun.com/ingress-bandwidth"
	annotationEgressTerway  = "k8s.aliyun.com/egress-bandwidth"
)

// The bounds of a limit, in bits per second, that the kubelet and container runtimes have for the same annotations.
const (
	minLimit = 1_000
	maxLimit = 1_000_000_000_000_000
)

// LimitsOf reads the limits that a pod's annotations ask for. Kubernetes' own annotation is asked first, then Terway's; a
// direction with neither has no limit.
//
// Nothing is refused for a value that cannot be used: its direction keeps what it has in last, and the error, which joins
// one for each annotation, says what to write instead. What last is depends on the moment. When a pod is added it is what
// the runtime's capability says, which is also all there is for a container that is no pod of the cluster; later it is what
// the pod has. A pod that ran is so never stopped, nor let loose, by a change of its annotations.
func LimitsOf(annotations map[string]string, last Limits) (Limits, error) {
	var limits Limits
	var errs [2]error
	limits.Ingress, errs[0] = limitOf(annotations, annotationIngress, annotationIngressTerway, last.Ingress)
	limits.Egress, errs[1] = limitOf(annotations, annotationEgress, annotationEgressTerway, last.Egress)
	return limits, errors.Join(errs[:]...)
}

func limitOf(annotations map[string]string, name, terway string, last uint64) (uint64, error) {
	read := readBits
	value, ok := annotations[name]
	if !ok {
		name, read = terway, readTerway
		if value, ok = annotations[name]; !ok {
			return 0, nil
		}
	}
	limit, err := read(value)
	if err != nil {
		return last, fmt.Errorf("annotation %s is %q: %w", name, value, err)
	}
	return limit, nil
}

// readBits reads a quantity of bits per second. The fraction of a bit counts as one, as it does in the kubelet.
func readBits(value string) (uint64, error) {
	q, err := resource.ParseQuantity(strings.TrimSpace(value))
	if err != nil {
		return 0, errors.New("this is not a quantity; write bits per second, such as 10M")
	}
	switch {
	case q.Sign() <= 0:
		return 0, errors.New("a limit is above zero; write bits per second, such as 10M, or remove the annotation")
	case q.Cmp(*resource.NewQuantity(minLimit, resource.DecimalSI)) < 0:
		hint := "write at least 1k"
		if strings.HasSuffix(strings.TrimSpace(value), "m") {
			hint = "m is a thousandth, write M"
		}
		return 0, errors.New("this is less than 1k bits per second; " + hint)
	case q.Cmp(*resource.NewQuantity(maxLimit, resource.DecimalSI)) > 0:
		return 0, errors.New("this is more than 1P bits per second; write at most 1P, or remove the annotation")
	}
	return uint64(q.Value()), nil
}

// terwayUnits are bytes per second as powers of 1024.
var terwayUnits = map[string]int{
	"": 0, "B": 0, "K": 10, "KB": 10, "KIB": 10, "M": 20, "MB": 20, "MIB": 20, "G": 30, "GB": 30, "GIB": 30, "T": 40, "TB": 40, "TIB": 40,
}

// readTerway reads bytes per second as Terway does, and returns bits.
func readTerway(value string) (uint64, error) {
	text := strings.ToUpper(strings.TrimSpace(value))
	digits := strings.TrimRight(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZ")
	power, known := terwayUnits[text[len(digits):]]
	n, err := strconv.ParseFloat(strings.TrimSpace(digits), 64)
	if err != nil || !known || math.IsNaN(n) || math.IsInf(n, 0) {
		return 0, errors.New("this is not a number of bytes per second; write one such as 1M, or use kubernetes.io/...-bandwidth with bits")
	}
	bits := math.Ldexp(n, power) * 8
	if bits < minLimit || bits > maxLimit {
		return 0, fmt.Errorf("this is %.4g bits per second; write bytes per second that make 1k to 1P bits", bits)
	}
	return uint64(bits), nil
}

// parseBandwidth reads the arguments of the capability "bandwidth" (CNI conventions, "bandwidth"): bits per second, and
// bursts in bits. Runtimes pass zero for a direction without a limit, and a burst of four gigabits because they must pass
// some; it would let a pod send at the speed of the link for seconds, so that bursts are ours, see bucketOf.
func parseBandwidth(raw json.RawMessage) (Limits, error) {
	var args struct {
		IngressRate  uint64 `json:"ingressRate"`
		IngressBurst uint64 `json:"ingressBurst"`
		EgressRate   uint64 `json:"egressRate"`
		EgressBurst  uint64 `json:"egressBurst"`
	}
	if err := json.Unmarshal(raw, &args); err != nil {
		return Limits{}, fmt.Errorf("read bandwidth: %w", err)
	}
	for name, rate := range map[string]uint64{"ingressRate": args.IngressRate, "egressRate": args.EgressRate} {
		if rate != 0 && (rate < minLimit || rate > maxLimit) {
			return Limits{}, fmt.Errorf("bandwidth: %s is %d bits per second; use %d to %d, or 0 for no limit", name, rate, minLimit, maxLimit)
		}
	}
	return Limits{Ingress: args.IngressRate, Egress: args.EgressRate}, nil
}
