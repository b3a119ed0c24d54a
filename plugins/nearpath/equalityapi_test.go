package nearpath

import (
	"net/http/httptest"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/nearpath/nearpath/test/kubeapi"
)

// An apiObject is a Service, an EndpointSlice or a namespace.
type apiObject interface {
	runtime.Object
	metav1.Object
}

// An apiServer is a Kubernetes API whose objects are those of one world at a time.
type apiServer struct {
	*kubeapi.Server
	url  string
	have map[apiKey]bool
}

type apiKey struct{ kind, namespace, name string }

func startAPIServer(t *testing.T) *apiServer {
	t.Helper()
	s := &apiServer{Server: kubeapi.New(), have: map[apiKey]bool{}}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	t.Cleanup(server.CloseClientConnections) // watches would go on
	s.url = server.URL
	return s
}

func keyOf(o apiObject) apiKey {
	key := apiKey{"EndpointSlice", o.GetNamespace(), o.GetName()}
	switch o.(type) {
	case *corev1.Service:
		key.kind = "Service"
	case *corev1.Namespace:
		key.kind = "Namespace"
	}
	return key
}

// become makes the objects of the API those.
func (s *apiServer) become(t *testing.T, objects []apiObject) {
	t.Helper()
	want := map[apiKey]bool{}
	for _, o := range objects {
		want[keyOf(o)] = true
		if err := s.Put(o); err != nil {
			t.Fatal(err)
		}
	}
	for key := range s.have {
		if want[key] {
			continue
		}
		if err := s.Delete(key.kind, key.namespace, key.name); err != nil {
			t.Fatal(err)
		}
	}
	s.have = want
}
