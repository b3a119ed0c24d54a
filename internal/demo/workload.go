package demo

import (
	"bufio"
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

//go:embed app
var appFiles embed.FS

// An application is what the manifests describe, of what the demo acts on itself: it plays the Deployment and the
// EndpointSlice controllers.
type application struct {
	deployments []*appsv1.Deployment
	services    []*corev1.Service
}

// loadApplication reads the embedded manifests and copies them to dir for the agents. What is in app/dual is for pods
// with two addresses.
func loadApplication(dir string, dualStack bool) (*application, error) {
	app := &application{}
	err := fs.WalkDir(appFiles, ".", func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case path == "app/dual" && !dualStack:
			return fs.SkipDir
		case entry.IsDir():
			return nil
		}
		text, err := appFiles.ReadFile(path)
		if err != nil {
			return err
		}
		if err := app.read(text); err != nil {
			return fmt.Errorf("read %s: %w", path, err)
		}
		return os.WriteFile(filepath.Join(dir, filepath.Base(path)), text, 0o644)
	})
	return app, err
}

func (a *application) read(text []byte) error {
	documents := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text)))
	for {
		doc, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		var kind metav1.TypeMeta
		if err := yaml.Unmarshal(doc, &kind); err != nil {
			return err
		}
		switch kind.Kind {
		case "Deployment":
			a.deployments = append(a.deployments, &appsv1.Deployment{})
			err = yaml.UnmarshalStrict(doc, a.deployments[len(a.deployments)-1])
		case "Service":
			a.services = append(a.services, &corev1.Service{})
			err = yaml.UnmarshalStrict(doc, a.services[len(a.services)-1])
		}
		if err != nil {
			return err
		}
	}
}

// endpointSlice is what the EndpointSlice controller would write for svc over the given pods.
func endpointSlice(svc *corev1.Service, pods []*pod) *discoveryv1.EndpointSlice {
	slice := &discoveryv1.EndpointSlice{
		TypeMeta: metav1.TypeMeta{APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSlice"},
		ObjectMeta: metav1.ObjectMeta{
			Name: svc.Name + "-1", Namespace: svc.Namespace, Labels: map[string]string{discoveryv1.LabelServiceName: svc.Name},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
	}
	family := netip.Addr.Is4
	if slices.Contains(svc.Spec.IPFamilies, corev1.IPv6Protocol) {
		slice.AddressType, family = discoveryv1.AddressTypeIPv6, netip.Addr.Is6
	}
	selector := labels.SelectorFromSet(svc.Spec.Selector)
	for _, p := range pods {
		if p.namespace != svc.Namespace || !selector.Matches(labels.Set(p.template.Labels)) {
			continue
		}
		if len(slice.Ports) == 0 {
			slice.Ports = endpointPorts(svc, p.template)
		}
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{p.addrs[slices.IndexFunc(p.addrs, family)].String()}, NodeName: new(p.node.name),
			Conditions: discoveryv1.EndpointConditions{
				Ready: new(p.ready && !p.terminating), Serving: new(p.ready), Terminating: new(p.terminating),
			},
			TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: p.namespace, Name: p.name},
		})
	}
	return slice
}

// endpointPorts resolves the target ports of svc in a pod.
func endpointPorts(svc *corev1.Service, template *corev1.PodTemplateSpec) (ports []discoveryv1.EndpointPort) {
	for _, sp := range svc.Spec.Ports {
		number := sp.TargetPort.IntVal
		for _, c := range template.Spec.Containers {
			for _, cp := range c.Ports {
				if cp.Name == sp.TargetPort.StrVal && cp.Name != "" {
					number = cp.ContainerPort
				}
			}
		}
		protocol := sp.Protocol
		if protocol == "" {
			protocol = corev1.ProtocolTCP
		}
		ports = append(ports, discoveryv1.EndpointPort{Name: new(sp.Name), Protocol: &protocol, Port: &number})
	}
	return ports
}

// writeSlices publishes where the pods are, as one file that is replaced whole.
func (a *application) writeSlices(dir string, pods []*pod) error {
	var out bytes.Buffer
	for _, svc := range a.services {
		text, err := yaml.Marshal(endpointSlice(svc, pods))
		if err != nil {
			return err
		}
		out.WriteString("---\n")
		out.Write(text)
	}
	// The agents read *.yaml only, so the temporary name is never taken for a manifest.
	temporary := filepath.Join(dir, ".endpoints")
	if err := os.WriteFile(temporary, out.Bytes(), 0o644); err != nil {
		return err
	}
	return os.Rename(temporary, filepath.Join(dir, "endpoints.yaml"))
}
