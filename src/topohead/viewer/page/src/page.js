// The page without splats.
import { start } from "./viewer.js";

start();
