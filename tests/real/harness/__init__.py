"""The parts that every suite needs: processes, ports, stub models, the proxy, a broker. All on loopback, no fixed
port, no wait but on a condition, and nothing left running."""
