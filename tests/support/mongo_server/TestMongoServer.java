import de.bwaldvogel.mongo.MongoServer;
import de.bwaldvogel.mongo.MongoVersion;
import de.bwaldvogel.mongo.backend.h2.H2Backend;
import java.net.InetSocketAddress;
import java.util.List;

/** {@code FILE PORT [MAJOR WIRE_VERSION]}: a MongoDB-protocol server over a file, on the loopback. */
class TestMongoServer {
    private record Version(List<Integer> getVersionArray, int getWireVersion) implements MongoVersion {}

    public static void main(String[] args) {
        int major = args.length > 2 ? Integer.parseInt(args[2]) : 6;
        int wire = args.length > 3 ? Integer.parseInt(args[3]) : 17;
        var backend = new H2Backend(args[0]);
        backend.version(new Version(List.of(major, 0, 0), wire)); // its own versions are too old for drivers
        var server = new MongoServer(backend);
        server.bind(new InetSocketAddress("127.0.0.1", Integer.parseInt(args[1])));
        Runtime.getRuntime().addShutdownHook(new Thread(server::shutdownNow)); // else SIGTERM loses data
        System.out.println("listening on " + server.getLocalAddress().getPort());
    }
}
